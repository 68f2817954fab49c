// Bilinear sampling with lanes along the outputs: images whose channels are planes.
#pragma once

#include "slopes.h"

namespace stn {
namespace {

// Zeroes the margin of a plane whose pixels take `floats` each.
inline void clear_margin(const Call& c, const Frame& frame, int64_t floats, float* plane) {
  const int64_t planes = c.dim == 3 ? frame.count / frame.step[2] : 1;
  const int64_t lines = frame.step[2] / frame.step[1], width = frame.step[1] * floats;
  const int64_t deep = c.dim == 3 ? kMargin : 0, edge = kMargin * floats;
  for (int64_t z = 0; z < planes; ++z) {
    for (int64_t y = 0; y < lines; ++y, plane += width) {
      const bool outside = z < deep || z >= planes - deep || y < kMargin || y >= lines - kMargin;
      std::memset(plane, 0, (outside ? width : edge) * sizeof(float));
      if (!outside) std::memset(plane + width - edge, 0, edge * sizeof(float));
    }
  }
}

// Copies an image into planes with a margin, which stays as it is, and back.
inline void add_margin(const Call& c, const Frame& frame, const float* from, float* to) {
  for (int64_t channel = 0; channel < c.channels; ++channel, to += frame.count) {
    for (int64_t z = 0; z < c.in[0]; ++z) {
      float* line = to + frame.first + z * frame.step[2];
      for (int64_t y = 0; y < c.in[1]; ++y, from += c.in[2], line += frame.step[1]) {
        copy_line(from, c.in[2], line);
      }
    }
  }
}

// Of lines (planes in three dimensions) [low, high).
inline void take_margin(const Call& c, const Frame& frame, const float* from, float* to, int64_t low,
                        int64_t high) {
  const int64_t slice = c.pixels() / c.in[3 - c.dim];
  for (int64_t channel = 0; channel < c.channels; ++channel, from += frame.count) {
    for (int64_t at = low; at < high; ++at) {
      const float* own = from + frame.first + at * frame.slice(c);
      float* out = to + channel * c.pixels() + at * slice;
      for (int64_t y = 0; y < slice / c.in[2]; ++y) {
        copy_line(own + y * frame.step[1], c.in[2], out + y * c.in[2]);
      }
    }
  }
}

constexpr int64_t kCached = 512 << 10;  // bytes

template <int DIM, bool FOLD, int64_t TYPE>
struct Planar {
  static constexpr int kRows = 1 << (DIM - 1);

  const Call& c;
  const Tiles tiles;
  const Frame frame;
  const int64_t targets, channels;
  Tile tile;
  Affine affine;

  Planar(const Call& call, bool margin) : c(call), tiles(call), frame(call, margin), targets(c.targets()), channels(c.channels) {}

  // Where the first channel of the tile lies in output and grad_output.
  int64_t output_at(int64_t row) const { return row * c.channels * targets + tile.start; }

  // `image`: the row's, in this frame, all channels.
  void forward(const Places& p, int64_t row, const Part&, int64_t from, int64_t to,
               const float* image) {
    const int64_t ahead = next_slice(p);
    for (int64_t index = from; index < to; ++index) {
      locate<DIM, FOLD>(p, tiles, frame, index, tile, affine);
      const float* plane = image + tile.pixel;
      int64_t at = output_at(row);
      // Channel by channel: stores to one plane would hold up loads from the next, whose addresses
      // often end alike.
      for (int64_t channel = 0; channel < channels; ++channel, plane += frame.count, at += targets) {
        for (int v = 0; v < tile.vectors; ++v) {
          if (tile.kind[v] == kInside) {
            sample<false>(at, v, plane, ahead);
          } else if (tile.kind[v] == kEdge) {
            sample<true>(at, v, plane, ahead);
          } else if (tile.kind[v] == kOutside) {
            Vector::write<TYPE>(c.output, at + v * N, tile.lanes(v), Vector::zero());
          }
        }
      }
      for (int v = 0; v < tile.vectors; ++v) {
        if (tile.kind[v] != kSlow) continue;
        const int64_t first = tile.start + v * N;
        Scalar<float>::forward(p, row, first, first + tile.lanes(v));
      }
    }
  }

  template <bool EDGE>
  STN_HOT void sample(int64_t at, int v, const float* plane, int64_t ahead) {
    const Around<DIM, EDGE> around(tile, v);
    const int* offset = tile.offset + v * N;
    F left[kRows], right[kRows];
    around.load(plane, frame, offset, left, right);
    fetch(plane + ahead, offset, ahead);
    Vector::write<TYPE>(c.output, at + v * N, tile.lanes(v), around.value(left, right));
  }

  // Tiles [from, to) of one row; matrices' sums go to `total`.
  void backward_places(const Places& p, int64_t row, const Part&, int64_t from, int64_t to,
                       const float* image, MatrixGradient& total) {
    const int64_t ahead = next_slice(p);
    for (int64_t index = from; index < to; ++index) {
      locate<DIM, FOLD>(p, tiles, frame, index, tile, affine);
      const float* plane = image + tile.pixel;
      int64_t at = output_at(row);
      for (int64_t channel = 0; channel < channels; ++channel, plane += frame.count, at += targets) {
        for (int v = 0; v < tile.vectors; ++v) {
          if (tile.kind[v] == kInside) {
            slopes<false>(at, v, plane, ahead, channel == 0);
          } else if (tile.kind[v] == kEdge) {
            slopes<true>(at, v, plane, ahead, channel == 0);
          }
        }
      }
      slow_slopes(p, row, tile, total);
      finish_slopes<DIM, FOLD>(tile);
      give_slopes<DIM>(p, row, tile, affine, false, total);
    }
  }

  // Sums slopes over channels where the positions were.
  template <bool EDGE>
  STN_HOT void slopes(int64_t at, int v, const float* plane, int64_t ahead, bool first) {
    const Around<DIM, EDGE> around(tile, v);
    const int* offset = tile.offset + v * N;
    F left[kRows], right[kRows], g[DIM];
    const F grad = Vector::read<TYPE>(c.grad_output, at + v * N, tile.lanes(v));
    around.load(plane, frame, offset, left, right);
    fetch(plane + ahead, offset, ahead);
    around.slopes(left, right, g);
    for (int a = 0; a < DIM; ++a) {
      float* sum = tile.position[a] + v * N;
      Vector::store(sum, Vector::fma(grad, g[a], first ? Vector::zero() : Vector::load(sum)));
    }
  }

  // Adds to lines (planes in 3-D) [low, high) of `image`, all channels, what `row` puts there;
  // `whole` says that they are all.
  void backward_input(const Places& p, int64_t row, const Part& part, int64_t low, int64_t high,
                      bool whole, float* image) {
    const int64_t slice = frame.slice(c), ahead = next_slice(p);
    for (int64_t index = 0; index < tiles.count; ++index) {
      if (!whole && misses<DIM, FOLD>(p, tiles, index, low, high)) continue;
      locate<DIM, FOLD>(p, tiles, frame, index, tile, affine);
      const bool cut = !whole && !lies_in(low * slice, high * slice);
      float* plane = image;
      int64_t at = output_at(row);
      for (int64_t channel = 0; channel < channels; ++channel, plane += frame.count, at += targets) {
        for (int v = 0; v < tile.vectors; ++v) {
          if (tile.kind[v] < kOutside) {
            fetch(plane + tile.pixel + ahead, tile.offset + v * N, ahead);
          }
          if (tile.kind[v] == kInside) {
            spread<false>(at, v);
          } else if (tile.kind[v] == kEdge) {
            spread<true>(at, v);
          }
        }
        cut ? add<true>(plane, low * slice, high * slice) : add<false>(plane, 0, 0);
      }
      for (int v = 0; v < tile.vectors; ++v) {
        if (tile.kind[v] != kSlow) continue;
        const int64_t first = tile.start + v * N;
        spill(c, frame, p, row, part, first, first + tile.lanes(v), low, high,
              [&](int64_t pixel, int64_t channel) { return image + channel * frame.count + pixel; });
      }
    }
  }

 private:
  // How far on, in pixels, lies what the next line of targets (plane in 3-D) is the first to read;
  // 0 where images stay in the cache anyway. Slanted lines escape the processor's own prefetching.
  int64_t next_slice(const Places& p) const {
    if (frame.count * channels * 4 <= kCached) return 0;
    if (c.source != kAffine) return 2 * frame.slice(c);
    double step = p.linear[DIM - 1][DIM - 1], total = 0;
    step = std::min(std::max(step < 0 ? step : step + 1, -64.0), 64.0);
    for (int a = 0; a < DIM - 1; ++a) {
      total += std::nearbyint(std::min(std::max(p.linear[a][DIM - 1], -64.0), 64.0)) *
               static_cast<double>(frame.step[a]);
    }
    total += std::nearbyint(step) * static_cast<double>(frame.slice(c));
    return std::isfinite(total) ? static_cast<int64_t>(total) : 0;
  }

  STN_HOT static void fetch(const float* from, const int* offset, int64_t ahead) {
    if (!ahead) return;
    Vector::prefetch(from + offset[0]);
    Vector::prefetch(from + offset[N - 1]);
  }

  alignas(64) float pairs[kRows][2 * kTile];

  // Whether all that the tile's lanes touch surely lies in pixels [low, high).
  bool lies_in(int64_t low, int64_t high) const {
    int first = tile.offset[0], last = first;
    for (int k = 1; k < tile.size; ++k) {
      first = std::min(first, tile.offset[k]);
      last = std::max(last, tile.offset[k]);
    }
    const int64_t from = tile.pixel - frame.first + frame.before;
    return from + first >= low && from + last + frame.slice(c) < high;
  }

  template <bool EDGE>
  STN_HOT void spread(int64_t at, int v) {
    const Around<DIM, EDGE> around(tile, v);
    const F grad = Vector::read<TYPE>(c.grad_output, at + v * N, tile.lanes(v));
    F left[kRows], right[kRows];
    for (int k = 0; k < kRows; ++k) {
      F along = grad * around.axis[1].w[k & 1];
      if constexpr (DIM == 3) along = along * around.axis[2].w[k >> 1];
      left[k] = along * around.axis[0].w[0];
      right[k] = along * around.axis[0].w[1];
    }
    if constexpr (EDGE) around.keep(left, right);
    for (int k = 0; k < kRows; ++k) Vector::store_pairs(pairs[k] + 2 * v * N, left[k], right[k]);
  }

  // Lane by lane across the tile: neighbours, which share pixels, are far apart in time.
  template <bool CUT>
  STN_HOT void add(float* plane, int64_t low, int64_t high) {
    float* from = plane + tile.pixel;
    const int full = tile.size / N;
    for (int lane = 0; lane < N; ++lane) {
      const int count = full + (lane < tile.size % N);
      for (int v = 0; v < count; ++v) {
        if (tile.kind[v] >= kOutside) continue;
        const int64_t at = tile.offset[v * N + lane];
        const float* own = pairs[0] + 2 * v * N + Vector::pair_at(lane);
        for (int r = 0; r < kRows; ++r) {
          const int64_t pixel = tile.pixel - frame.first + frame.before + at + frame.tap(2 * r);
          if (CUT && (pixel < low || pixel >= high)) continue;
          add_pair(from + at + frame.tap(2 * r), own + r * 2 * kTile);
        }
      }
    }
  }

  STN_HOT static void add_pair(float* to, const float* from) {
    const __m128 zero = _mm_setzero_ps();
    const __m128 old = _mm_loadl_pi(zero, reinterpret_cast<const __m64*>(to));
    const __m128 more = _mm_loadl_pi(zero, reinterpret_cast<const __m64*>(from));
    _mm_storel_pi(reinterpret_cast<__m64*>(to), _mm_add_ps(old, more));
  }
};

}  // namespace
}  // namespace stn
