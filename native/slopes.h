// What becomes of d loss / d px once a tile has it, and which tiles reach a part of the image.
#pragma once

#include "tile.h"

namespace stn {
namespace {

// Slopes sum up where the positions were. Those under folding paddings get their sign, and what is
// outside, or past the tile's end, is zero.
template <int DIM, bool FOLD>
STN_HOT void finish_slopes(Tile& tile) {
  for (int v = 0; v < tile.vectors; ++v) {
    if (tile.kind[v] == kSlow) continue;
    for (int a = 0; a < DIM; ++a) {
      float* to = tile.position[a] + v * N;
      if (tile.kind[v] == kOutside) Vector::store(to, Vector::zero());
      if (FOLD) Vector::store(to, Vector::load(to) * Vector::load(tile.sign[a] + v * N));
      for (int k = tile.lanes(v); k < N; ++k) to[k] = 0;
    }
  }
}

// All channels of lanes that are sampled one by one.
inline void slow_slopes(const Places& p, int64_t row, const Tile& tile, MatrixGradient& total) {
  for (int v = 0; v < tile.vectors; ++v) {
    if (tile.kind[v] != kSlow) continue;
    const int64_t first = tile.start + v * N;
    Scalar<float>::backward_places(p, row, first, first + tile.lanes(v), total);
  }
}

template <int DIM>
void give_affine(const Places& p, const Tile& tile, const Affine& affine, MatrixGradient& total) {
  F sum[DIM], moment[DIM][DIM];
  for (int a = 0; a < DIM; ++a) {
    sum[a] = Vector::zero();
    for (int j = 0; j < DIM; ++j) moment[a][j] = Vector::zero();
  }
  const int axes = affine.wraps ? DIM : 1;
  for (int v = 0; v < tile.vectors; ++v) {
    if (tile.kind[v] >= kOutside) continue;
    const Steps s = affine.steps<DIM>(v);
    for (int a = 0; a < DIM; ++a) {
      const F g = Vector::load(tile.position[a] + v * N);
      sum[a] = sum[a] + g;
      for (int j = 0; j < axes; ++j) moment[a][j] = Vector::fma(g, s.axis[j], moment[a][j]);
    }
  }
  double g[4][4];
  for (int a = 0; a < DIM; ++a) {
    const double all = Vector::sum(sum[a]);
    for (int j = 0; j < DIM; ++j) {
      const double own = j < axes ? Vector::sum(moment[a][j]) : 0;
      g[a][j] = own + all * static_cast<double>(tile.target[j]);
    }
    g[a][DIM] = all;
  }
  total.add_sums(p, g);
}

// Writes `count` slopes along one axis of a field's gradient, or adds them.
template <class T>
STN_HOT void write_slopes(const float* slope, int count, float scale, int64_t step, bool add, T* to) {
  if (add) {
    for (int k = 0; k < count; ++k) to[step * k] += static_cast<T>(slope[k] * scale);
  } else if (step == 1) {
    for (int k = 0; k < count; ++k) to[k] = static_cast<T>(slope[k] * scale);
  } else if (step == 2) {
    for (int k = 0; k < count; ++k) to[2 * k] = static_cast<T>(slope[k] * scale);
  } else {
    for (int k = 0; k < count; ++k) to[step * k] = static_cast<T>(slope[k] * scale);
  }
}

template <int DIM, class T>
void give_field(const Places& p, int64_t row, const Tile& tile, bool add) {
  const int64_t* stride = p.call.grad_stride;
  T* to = static_cast<T*>(p.call.grad_places) + row * stride[0] + tile.start * stride[1];
  for (int from = 0; from < tile.vectors;) {
    int past = from + 1;  // vectors [from, past) alike
    const bool slow = tile.kind[from] == kSlow;
    while (past < tile.vectors && (tile.kind[past] == kSlow) == slow) ++past;
    const int first = from * N, count = std::min(past * N, tile.size) - first;
    for (int a = 0; a < DIM && !slow; ++a) {
      write_slopes<T>(tile.position[a] + first, count, static_cast<float>(p.scale(a)), stride[1],
                      add, to + first * stride[1] + a * stride[2]);
    }
    from = past;
  }
}

// Turns the slopes kept in a tile into the gradient of what its places come from; `add` says that
// other channels gave theirs before.
template <int DIM>
void give_slopes(const Places& p, int64_t row, const Tile& tile, const Affine& affine, bool add,
                 MatrixGradient& total) {
  if (p.call.source == kAffine) return give_affine<DIM>(p, tile, affine, total);
  if (p.call.source == kField) {
    return p.call.places_double ? give_field<DIM, double>(p, row, tile, add)
                                : give_field<DIM, float>(p, row, tile, add);
  }
  int64_t t[3];
  double px[3], g[3];
  for (int k = 0; k < tile.size; ++k) {
    if (tile.kind[k / N] == kSlow) continue;
    for (int a = 0; a < DIM; ++a) g[a] = tile.position[a][k];
    target_of(p.call, tile.start + k, t);
    const double w = p.at(tile.start + k, t, px);
    if (w > kNearestW) total.add(p, t, px, w, g);
  }
}

// Whether an affine tile on one line surely reads nothing of lines (planes in 3-D) [low, high).
template <int DIM, bool FOLD>
bool misses(const Places& p, const Tiles& tiles, int64_t index, int64_t low, int64_t high) {
  if (p.call.source != kAffine || !tiles.per_line || FOLD) return false;
  int64_t t[3];
  target_of(p.call, tiles.start(index), t);
  const double here = p.line(DIM - 1, t);
  const double there = here + p.linear[DIM - 1][0] * (tiles.size(index) - 1);
  return std::max(here, there) + 2 < static_cast<double>(low) ||
         std::min(here, there) - 1 > static_cast<double>(high);
}

// Adds to slices [low, high) of some channels of an image in a frame what single samples put there.
// `at` says where pixel and channel are.
template <class At>
void spill(const Call& c, const Frame& frame, const Places& p, int64_t row, const Part& part,
           int64_t first, int64_t last, int64_t low, int64_t high, At&& at) {
  int64_t t[3];
  double px[3], w;
  for (int64_t point = first; point < last; ++point) {
    const Taps<float> own = Scalar<float>::taps(p, point, t, px, w);
    const int64_t output = Scalar<float>::output_at(c, row, point);
    for (int k = 0; k < own.count; ++k) {
      const int64_t index = own.offset[k] / c.pixel_stride(), line = index / c.in[2];
      const int64_t y = line % c.in[1], z = line / c.in[1], slice = c.dim == 2 ? y : z;
      if (slice < low || slice >= high) continue;
      const int64_t place = frame.first + index % c.in[2] + y * frame.step[1] + z * frame.step[2];
      for (int64_t i = 0; i < part.count; ++i) {
        const int64_t from = output + (part.first + i) * Scalar<float>::output_step(c);
        *at(place, i) += own.weight[k] * ::stn::read<float>(c.grad_output, from, c.type);
      }
    }
  }
}

}  // namespace
}  // namespace stn
