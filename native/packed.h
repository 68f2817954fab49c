// Bilinear sampling with lanes along the channels: channels_last images, and planar images of many
// channels, which are first laid out that way in a scratch that stays in the cache.
#pragma once

#include "packing.h"
#include "slopes.h"

namespace stn {
namespace {

// LAST: images, outputs and their gradients are channels_last; else planar, and images in a scratch.
template <int DIM, bool FOLD, int64_t TYPE, bool LAST>
struct Packed {
  static constexpr int kTaps = 1 << DIM;

  const Call& c;
  const Tiles tiles;
  const Frame frame;
  int64_t line[kTaps / 2];  // of each pair of pixels around a sample, in floats
  Tile tile;
  Affine affine;
  alignas(64) float weight[kTaps][kTile];
  alignas(64) float lines[N][kTile];  // outputs of N planes

  Packed(const Call& call, bool margin) : c(call), tiles(call), frame(call, margin) {
    for (int k = 0; k < kTaps / 2; ++k) line[k] = frame.tap(2 * k) * pitch();
  }

  // Floats from pixel to pixel.
  STN_HOT int64_t pitch() const { return LAST ? c.channels : kPack; }
  STN_HOT int64_t tap(int k) const { return (k < 2 ? 0 : line[k / 2]) + (k & 1) * pitch(); }
  // Where a channel of pixel 0 lies.
  STN_HOT int64_t plane(int64_t channel) const {
    return LAST ? channel : packed_at(frame, channel);
  }

  template <bool EDGE>
  STN_HOT void weigh(int v) {
    const Around<DIM, EDGE> around(tile, v);
    for (int k = 0; k < kTaps; ++k) {
      F w = around.axis[1].w[k >> 1 & 1];
      if constexpr (DIM == 3) w = w * around.axis[2].w[k >> 2];
      Vector::store(weight[k] + v * N, w * around.axis[0].w[k & 1]);
    }
  }

  // Weights of single pixels are kept where some are out of reach, or `all` are asked for.
  void find(const Places& p, int64_t index, bool all) {
    locate<DIM, FOLD>(p, tiles, frame, index, tile, affine);
    for (int v = 0; v < tile.vectors; ++v) {
      if (tile.kind[v] == kEdge) weigh<true>(v);
      if (tile.kind[v] == kInside && all) weigh<false>(v);
    }
  }

  int64_t output_at(int64_t row, int64_t channel) const {
    const int64_t image = row * c.channels * c.targets();
    return LAST ? image + tile.start * c.channels + channel
                : image + channel * c.targets() + tile.start;
  }

  // `image`: packed, of the row's image and these channels.
  void forward(const Places& p, int64_t row, const Part& part, int64_t from, int64_t to,
               const float* image) {
    for (int64_t index = from; index < to; ++index) {
      find(p, index, false);
      const float* here = image + tile.pixel * pitch();
      for (int64_t group = 0; group < part.count; group += N) {
        const int own = static_cast<int>(std::min<int64_t>(N, part.count - group));
        for (int v = 0; v < tile.vectors; ++v) {
          if (tile.kind[v] == kEdge) {
            sample_group<true, false>(row, v, group, own, here + plane(group));
          } else if (tile.kind[v] != kInside) {
            clear_group(row, v, group, own);
          } else if (own < N || tile.lanes(v) < N) {
            sample_group<false, false>(row, v, group, own, here + plane(group));
          } else {
            sample_group<false, true>(row, v, group, N, here + plane(group));
          }
        }
        if (!LAST) write_lines(row, part.first + group, own);
      }
      if (part.first + part.count < c.channels) continue;
      for (int v = 0; v < tile.vectors; ++v) {
        if (tile.kind[v] != kSlow) continue;
        const int64_t first = tile.start + v * N;
        Scalar<float>::forward(p, row, first, first + tile.lanes(v));
      }
    }
  }

  // N outputs from lane v on, channels [group, group + own); FULL says that all of both are there.
  // Planar outputs gather in `lines`.
  template <bool EDGE, bool FULL>
  STN_HOT void sample_group(int64_t row, int v, int64_t group, int own, const float* here) {
    const int lanes = FULL ? N : tile.lanes(v);
    if constexpr (LAST) {
      const int64_t channels = c.channels;
      int64_t at = output_at(row, group) + v * N * channels;
      for (int k = 0; k < lanes; ++k, at += channels) {
        Vector::write<TYPE>(c.output, at, FULL ? N : own, sample<EDGE, FULL>(here, v * N + k, own));
      }
      return;
    }
    F value[N];
    STN_UNROLL for (int k = 0; k < N; ++k) {
      value[k] = FULL || k < lanes ? sample<EDGE, FULL>(here, v * N + k, own) : Vector::zero();
    }
    Vector::transpose(value);
    STN_UNROLL for (int k = 0; k < N; ++k) Vector::store(lines[k] + v * N, value[k]);
  }

  void clear_group(int64_t row, int v, int64_t group, int own) {
    if constexpr (LAST) {
      for (int k = 0; k < tile.lanes(v); ++k) {
        Vector::write<TYPE>(c.output, output_at(row, group) + (v * N + k) * c.channels, own,
                            Vector::zero());
      }
    } else {
      for (int k = 0; k < N; ++k) Vector::store(lines[k] + v * N, Vector::zero());
    }
  }

  // Plane by plane: memory likes few streams of stores.
  void write_lines(int64_t row, int64_t group, int own) const {
    for (int k = 0; k < own; ++k) {
      const int64_t at = output_at(row, group + k);
      for (int v = 0; v < tile.vectors; ++v) {
        Vector::write<TYPE>(c.output, at + v * N, tile.lanes(v), Vector::load(lines[k] + v * N));
      }
    }
  }

  template <bool FULL>
  STN_HOT static F read(const float* from, int own) {
    return FULL ? Vector::load(from) : Vector::load_some(from, own);
  }

  template <bool EDGE, bool FULL>
  STN_HOT F sample(const float* here, int k, int own) const {
    const float* at = here + static_cast<int64_t>(tile.offset[k]) * pitch();
    if constexpr (EDGE) {
      F sum = Vector::zero();
      for (int i = 0; i < kTaps; ++i) {
        if (weight[i][k] == 0) continue;
        sum = Vector::fma(Vector::set(weight[i][k]), read<FULL>(at + tap(i), own), sum);
      }
      return sum;
    }
    F value[kTaps];
    STN_UNROLL for (int i = 0; i < kTaps; ++i) value[i] = read<FULL>(at + tap(i), own);
    STN_UNROLL for (int a = 0; a < DIM; ++a) {
      const F d = Vector::set(tile.d[a][k]);
      STN_UNROLL for (int i = 0; i < kTaps >> (a + 1); ++i) {
        value[i] = Vector::fma(d, value[2 * i + 1] - value[2 * i], value[2 * i]);
      }
    }
    return value[0];
  }

  // Reads the gradients of channels [group, group + own) into `lines`.
  void read_lines(int64_t row, int64_t group, int own) {
    if constexpr (LAST) return;
    for (int k = 0; k < own; ++k) {
      const int64_t at = output_at(row, group + k);
      for (int v = 0; v < tile.vectors; ++v) {
        Vector::store(lines[k] + v * N,
                      Vector::read<TYPE>(c.grad_output, at + v * N, tile.lanes(v)));
      }
    }
  }

  // The gradients of N outputs from lane v on, lanes along channels [group, group + own).
  template <bool FULL>
  STN_HOT void gradients(int64_t row, int v, int64_t group, int own, F* grad) const {
    if constexpr (LAST) {
      const int64_t from = output_at(row, group) + v * N * c.channels;
      STN_UNROLL for (int k = 0; k < N; ++k) {
        grad[k] = FULL || k < tile.lanes(v)
                      ? Vector::read<TYPE>(c.grad_output, from + k * c.channels, FULL ? N : own)
                      : Vector::zero();
      }
      return;
    }
    STN_UNROLL for (int k = 0; k < N; ++k) {
      grad[k] = FULL || k < own ? Vector::load(lines[k] + v * N) : Vector::zero();
    }
    Vector::transpose(grad);
  }

  void backward_places(const Places& p, int64_t row, const Part& part, int64_t from, int64_t to,
                       const float* image, MatrixGradient& total) {
    for (int64_t index = from; index < to; ++index) {
      locate<DIM, FOLD>(p, tiles, frame, index, tile, affine);
      const float* here = image + tile.pixel * pitch();
      for (int64_t group = 0; group < part.count; group += N) {
        const int own = static_cast<int>(std::min<int64_t>(N, part.count - group));
        read_lines(row, part.first + group, own);
        for (int v = 0; v < tile.vectors; ++v) {
          if (tile.kind[v] == kEdge) {
            slopes<true, false>(row, v, part.first + group, own, here + plane(group), group == 0);
          } else if (tile.kind[v] != kInside) {
            continue;
          } else if (own < N || tile.lanes(v) < N) {
            slopes<false, false>(row, v, part.first + group, own, here + plane(group), group == 0);
          } else {
            slopes<false, true>(row, v, part.first + group, N, here + plane(group), group == 0);
          }
        }
      }
      if (!part.first) slow_slopes(p, row, tile, total);
      finish_slopes<DIM, FOLD>(tile);
      give_slopes<DIM>(p, row, tile, affine, part.first > 0, total);
    }
  }

  // Sums over channels of gradient times pixel, one for each pixel around; then as Planar.
  template <bool EDGE, bool FULL>
  STN_HOT void slopes(int64_t row, int v, int64_t group, int own, const float* here, bool first) {
    const Around<DIM, EDGE> around(tile, v);
    F grad[N], sums[kTaps][N / 4];
    gradients<FULL>(row, v, group, own, grad);
    STN_UNROLL for (int q = 0; q < N / 4; ++q) {
      const int* offset = tile.offset + v * N + 4 * q;
      STN_UNROLL for (int i = 0; i < kTaps; ++i) {
        F product[4];
        STN_UNROLL for (int k = 0; k < 4; ++k) {
          const bool there = FULL || 4 * q + k < tile.lanes(v);
          const float* at = here + static_cast<int64_t>(there ? offset[k] : 0) * pitch() + tap(i);
          product[k] = there ? grad[4 * q + k] * read<FULL>(at, own) : Vector::zero();
        }
        sums[i][q] = Vector::fours(product);
      }
    }
    F left[kTaps / 2], right[kTaps / 2], g[DIM];
    for (int k = 0; k < kTaps / 2; ++k) {
      left[k] = Vector::join(sums[2 * k]), right[k] = Vector::join(sums[2 * k + 1]);
    }
    if constexpr (EDGE) around.keep(left, right);
    around.slopes(left, right, g);
    for (int a = 0; a < DIM; ++a) {
      float* sum = tile.position[a] + v * N;
      Vector::store(sum, first ? g[a] : g[a] + Vector::load(sum));
    }
  }

  // As Planar::backward_input, into a packed `image`.
  void backward_input(const Places& p, int64_t row, const Part& part, int64_t low, int64_t high,
                      bool whole, float* image) {
    const int64_t slice = frame.slice(c) * pitch();
    for (int64_t index = 0; index < tiles.count; ++index) {
      if (!whole && misses<DIM, FOLD>(p, tiles, index, low, high)) continue;
      find(p, index, true);
      for (int64_t group = 0; group < part.count; group += N) {
        const int own = static_cast<int>(std::min<int64_t>(N, part.count - group));
        read_lines(row, part.first + group, own);
        for (int v = 0; v < tile.vectors; ++v) {
          if (tile.kind[v] >= kOutside) continue;
          F grad[N];
          if (tile.kind[v] == kEdge || !whole || own < N || tile.lanes(v) < N) {
            gradients<false>(row, v, part.first + group, own, grad);
            for (int i = 0; i < N; ++i) {
              const int k = turn(i);
              if (k >= tile.lanes(v)) continue;
              add_some(image + plane(group), v * N + k, own, grad[k], low * slice, high * slice);
            }
          } else {
            gradients<true>(row, v, part.first + group, N, grad);
            STN_UNROLL for (int i = 0; i < N; ++i) {
              add(image + plane(group), v * N + turn(i), grad[turn(i)]);
            }
          }
        }
      }
      for (int v = 0; v < tile.vectors; ++v) {
        if (tile.kind[v] != kSlow) continue;
        const int64_t first = tile.start + v * N;
        spill(c, frame, p, row, part, first, first + tile.lanes(v), low, high,
              [&](int64_t pixel, int64_t channel) { return image + plane(channel) + pixel * pitch(); });
      }
    }
  }

 private:
  // Neighbours share pixels: one after the other, each would wait for what the last stored.
  static constexpr int turn(int i) { return i < N / 2 ? 2 * i : 2 * i - N + 1; }

  STN_HOT void add(float* image, int k, F grad) const {
    float* at = image + (tile.pixel + tile.offset[k]) * pitch();
    STN_UNROLL for (int i = 0; i < kTaps; ++i) {
      Vector::store(at + tap(i),
                    Vector::fma(Vector::set(weight[i][k]), grad, Vector::load(at + tap(i))));
    }
  }

  // What has a weight and lies in floats [low, high) of the image.
  STN_HOT void add_some(float* image, int k, int own, F grad, int64_t low, int64_t high) const {
    const int64_t start = frame.first - frame.before;
    const int64_t at = (tile.pixel - start + tile.offset[k]) * pitch();
    float* from = image + start * pitch();
    for (int i = 0; i < kTaps; ++i) {
      const float w = weight[i][k];
      const int64_t to = at + tap(i);
      if (w == 0 || to < low || to >= high) continue;
      const F sum = Vector::fma(Vector::set(w), grad, Vector::load_some(from + to, own));
      Vector::store_some(from + to, own, sum);
    }
  }
};

}  // namespace
}  // namespace stn
