// Bilinear sampling with lanes along the channels: channels_last images, and planar images of many
// channels, which are first laid out that way in a scratch that stays in the cache.
#pragma once

#include <memory>
#include <vector>

#include "slopes.h"

namespace stn {
namespace {

// Copies pixels of `channels` planes, which stand `plane` floats apart, into one row of channels a
// pixel, and back.
inline void pack(const float* planes, int64_t plane, int64_t pixels, int64_t channels,
                 float* packed) {
  for (int64_t group = 0; group < channels; group += N) {
    const int own = static_cast<int>(std::min<int64_t>(N, channels - group));
    for (int64_t at = 0; at < pixels; at += N) {
      const int some = static_cast<int>(std::min<int64_t>(N, pixels - at));
      F v[N];
      for (int k = 0; k < N; ++k) {
        v[k] = k < own ? Vector::load_some(planes + (group + k) * plane + at, some) : Vector::zero();
      }
      Vector::transpose(v);
      for (int k = 0; k < some; ++k) {
        Vector::store_some(packed + (at + k) * channels + group, own, v[k]);
      }
    }
  }
}

inline void unpack(const float* packed, int64_t plane, int64_t pixels, int64_t channels,
                   float* planes) {
  for (int64_t group = 0; group < channels; group += N) {
    const int own = static_cast<int>(std::min<int64_t>(N, channels - group));
    for (int64_t at = 0; at < pixels; at += N) {
      const int some = static_cast<int>(std::min<int64_t>(N, pixels - at));
      F v[N];
      for (int k = 0; k < N; ++k) {
        v[k] = k < some ? Vector::load_some(packed + (at + k) * channels + group, own)
                        : Vector::zero();
      }
      Vector::transpose(v);
      for (int k = 0; k < own; ++k) {
        Vector::store_some(planes + (group + k) * plane + at, some, v[k]);
      }
    }
  }
}

// All lines of an image; a margin stays as it is.
inline void pack_image(const Call& c, const Frame& frame, const float* from, float* to) {
  for (int64_t line = 0; line < c.in[0] * c.in[1]; ++line) {
    const int64_t at = frame.first + line / c.in[1] * frame.step[2] + line % c.in[1] * frame.step[1];
    pack(from + line * c.in[2], c.pixels(), c.in[2], c.channels, to + at * c.channels);
  }
}

// Lines (planes in 3-D) [low, high).
inline void unpack_image(const Call& c, const Frame& frame, const float* from, float* to, int64_t low,
                         int64_t high) {
  const int64_t lines = c.dim == 2 ? 1 : c.in[1];
  for (int64_t line = low * lines; line < high * lines; ++line) {
    const int64_t at = frame.first + line / c.in[1] * frame.step[2] + line % c.in[1] * frame.step[1];
    unpack(from + at * c.channels, c.pixels(), c.in[2], c.channels, to + line * c.in[2]);
  }
}

template <int DIM, bool FOLD, int64_t TYPE>
struct Packed {
  static constexpr int kTaps = 1 << DIM;

  const Call& c;
  const Tiles tiles;
  const Frame frame;
  const int64_t frame_channels;
  int64_t tap[kTaps];  // of each pixel around a sample, in floats
  Tile tile;
  Affine affine;
  alignas(64) float weight[kTaps][kTile];

  Packed(const Call& call, bool margin) : c(call), tiles(call), frame(call, margin), frame_channels(call.channels) {
    for (int k = 0; k < kTaps; ++k) tap[k] = frame.tap(k) * c.channels;
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

  void find(const Places& p, int64_t index) {
    locate<DIM, FOLD>(p, tiles, frame, index, tile, affine);
    for (int v = 0; v < tile.vectors; ++v) {
      if (tile.kind[v] == kInside) weigh<false>(v);
      if (tile.kind[v] == kEdge) weigh<true>(v);
    }
  }

  int64_t output_at(int64_t row, int64_t channel) const {
    const int64_t image = row * c.channels * c.targets();
    return c.channels_last ? image + tile.start * c.channels + channel
                           : image + channel * c.targets() + tile.start;
  }

  // `image`: packed, of the row's image.
  void forward(const Places& p, int64_t row, int64_t from, int64_t to, const float* image) {
    for (int64_t index = from; index < to; ++index) {
      find(p, index);
      const float* here = image + tile.pixel * c.channels;
      for (int v = 0; v < tile.vectors; ++v) {
        const int lanes = tile.lanes(v);
        if (tile.kind[v] == kSlow) {
          Scalar<float>::forward(p, row, tile.start + v * N, tile.start + v * N + lanes);
          continue;
        }
        if (tile.kind[v] == kOutside) {
          clear(row, v);
          continue;
        }
        const bool edge = tile.kind[v] == kEdge;
        for (int64_t group = 0; group < c.channels; group += N) {
          const int own = static_cast<int>(std::min<int64_t>(N, c.channels - group));
          if (edge) {
            sample_group<true, false>(row, v, group, own, here + group);
          } else if (own < N) {
            sample_group<false, false>(row, v, group, own, here + group);
          } else {
            sample_group<false, true>(row, v, group, N, here + group);
          }
        }
      }
    }
  }

  // N outputs from lane v on, channels [group, group + own).
  template <bool EDGE, bool FULL>
  STN_HOT void sample_group(int64_t row, int v, int64_t group, int own, const float* here) {
    const int lanes = tile.lanes(v);
    if (c.channels_last) {
      const int64_t channels = c.channels;
      int64_t at = output_at(row, group) + v * N * channels;
      for (int k = 0; k < lanes; ++k, at += channels) {
        Vector::write<TYPE>(c.output, at, FULL ? N : own, sample<EDGE, FULL>(here, v * N + k, own));
      }
      return;
    }
    F value[N];
    for (int k = 0; k < lanes; ++k) value[k] = sample<EDGE, FULL>(here, v * N + k, own);
    for (int k = lanes; k < N; ++k) value[k] = Vector::zero();
    Vector::transpose(value);
    const int64_t targets = tiles.targets;
    int64_t at = output_at(row, group) + v * N;
    for (int k = 0; k < own; ++k, at += targets) Vector::write<TYPE>(c.output, at, lanes, value[k]);
  }

  void clear(int64_t row, int v) const {
    const int64_t lanes = tile.lanes(v);
    const int64_t runs = c.channels_last ? 1 : c.channels;
    const int64_t count = c.channels_last ? lanes * c.channels : lanes;
    for (int64_t channel = 0; channel < runs; ++channel) {
      const int64_t at = output_at(row, channel) + v * N * (c.channels_last ? c.channels : 1);
      for (int64_t i = 0; i < count; i += N) {
        Vector::write<TYPE>(c.output, at + i, static_cast<int>(std::min<int64_t>(N, count - i)),
                            Vector::zero());
      }
    }
  }

  template <bool FULL>
  STN_HOT static F read(const float* from, int own) {
    return FULL ? Vector::load(from) : Vector::load_some(from, own);
  }

  template <bool EDGE, bool FULL>
  STN_HOT F sample(const float* here, int k, int own) const {
    const float* at = here + static_cast<int64_t>(tile.offset[k]) * frame_channels;
    F sum = Vector::zero();
    for (int i = 0; i < kTaps; ++i) {
      if (EDGE && weight[i][k] == 0) continue;
      sum = Vector::fma(Vector::set(weight[i][k]), read<FULL>(at + tap[i], own), sum);
    }
    return sum;
  }

  // The gradients of N outputs from k on, lanes along channels [group, group + own).
  STN_HOT void gradients(int64_t row, int v, int64_t group, int own, F* grad) const {
    const int lanes = tile.lanes(v);
    if (c.channels_last) {
      for (int k = 0; k < N; ++k) {
        grad[k] = k < lanes
                      ? Vector::read<TYPE>(c.grad_output,
                                           output_at(row, group) + (v * N + k) * c.channels, own)
                      : Vector::zero();
      }
      return;
    }
    for (int k = 0; k < N; ++k) {
      grad[k] = k < own ? Vector::read<TYPE>(c.grad_output, output_at(row, group + k) + v * N, lanes)
                        : Vector::zero();
    }
    Vector::transpose(grad);
  }

  void backward_places(const Places& p, int64_t row, int64_t from, int64_t to, const float* image,
                       MatrixGradient& total) {
    for (int64_t index = from; index < to; ++index) {
      locate<DIM, FOLD>(p, tiles, frame, index, tile, affine);
      const float* here = image + tile.pixel * c.channels;
      for (int v = 0; v < tile.vectors; ++v) {
        if (tile.kind[v] == kInside) {
          slopes<false>(row, v, here);
        } else if (tile.kind[v] == kEdge) {
          slopes<true>(row, v, here);
        } else if (tile.kind[v] == kOutside) {
          for (int a = 0; a < DIM; ++a) store_slopes(tile, a, v, Vector::zero());
        } else {
          const int64_t first = tile.start + v * N;
          Scalar<float>::backward_places(p, row, first, first + tile.lanes(v), total);
        }
      }
      give_slopes<DIM>(p, row, tile, affine, total);
    }
  }

  // Sums over channels of gradient times pixel, one for each pixel around; then as Planar.
  template <bool EDGE>
  STN_HOT void slopes(int64_t row, int v, const float* here) {
    const Around<DIM, EDGE> around(tile, v);
    const int lanes = tile.lanes(v);
    F dot[kTaps];
    for (int i = 0; i < kTaps; ++i) dot[i] = Vector::zero();
    for (int64_t group = 0; group < c.channels; group += N) {
      const int own = static_cast<int>(std::min<int64_t>(N, c.channels - group));
      if (own < N || lanes < N) {
        add_dots<false>(row, v, group, own, here + group, dot);
      } else {
        add_dots<true>(row, v, group, N, here + group, dot);
      }
    }
    F left[kTaps / 2], right[kTaps / 2], g[DIM];
    for (int k = 0; k < kTaps / 2; ++k) left[k] = dot[2 * k], right[k] = dot[2 * k + 1];
    if constexpr (EDGE) around.keep(left, right);
    around.slopes(left, right, g);
    for (int a = 0; a < DIM; ++a) {
      if (FOLD) g[a] = g[a] * Vector::load(tile.sign[a] + v * N);
      store_slopes(tile, a, v, g[a]);
    }
  }

  template <bool FULL>
  STN_HOT void add_dots(int64_t row, int v, int64_t group, int own, const float* here, F* dot) const {
    const int lanes = FULL ? N : tile.lanes(v);
    F grad[N], product[N];
    gradients(row, v, group, own, grad);
    for (int i = 0; i < kTaps; ++i) {
      for (int k = 0; k < lanes; ++k) {
        const float* at = here + static_cast<int64_t>(tile.offset[v * N + k]) * frame_channels;
        product[k] = grad[k] * read<FULL>(at + tap[i], own);
      }
      for (int k = lanes; k < N; ++k) product[k] = Vector::zero();
      dot[i] = dot[i] + Vector::sums(product);
    }
  }

  // As Planar::backward_input, into a packed `image`.
  void backward_input(const Places& p, int64_t row, int64_t low, int64_t high, bool whole,
                      float* image) {
    const int64_t slice = frame.slice(c) * c.channels;
    for (int64_t index = 0; index < tiles.count; ++index) {
      if (!whole && misses<DIM, FOLD>(p, tiles, index, low, high)) continue;
      find(p, index);
      for (int v = 0; v < tile.vectors; ++v) {
        const int64_t first = tile.start + v * N;
        if (tile.kind[v] == kSlow) {
          spill(c, frame, p, row, first, first + tile.lanes(v), low, high, image, c.channels, 1);
          continue;
        }
        if (tile.kind[v] == kOutside) continue;
        for (int64_t group = 0; group < c.channels; group += N) {
          const int own = static_cast<int>(std::min<int64_t>(N, c.channels - group));
          F grad[N];
          gradients(row, v, group, own, grad);
          if (tile.kind[v] == kEdge || !whole) {
            for (int k = 0; k < tile.lanes(v); ++k) {
              add_some(image + group, v * N + k, own, grad[k], low * slice, high * slice);
            }
          } else if (own < N) {
            for (int k = 0; k < tile.lanes(v); ++k) add<false>(image + group, v * N + k, own, grad[k]);
          } else {
            for (int k = 0; k < tile.lanes(v); ++k) add<true>(image + group, v * N + k, N, grad[k]);
          }
        }
      }
    }
  }

 private:
  template <bool FULL>
  STN_HOT void add(float* image, int k, int own, F grad) const {
    float* at = image + (tile.pixel + tile.offset[k]) * frame_channels;
    for (int i = 0; i < kTaps; ++i) {
      const F sum = Vector::fma(Vector::set(weight[i][k]), grad, read<FULL>(at + tap[i], own));
      FULL ? Vector::store(at + tap[i], sum) : Vector::store_some(at + tap[i], own, sum);
    }
  }

  // What has a weight and lies in floats [low, high) of the image.
  STN_HOT void add_some(float* image, int k, int own, F grad, int64_t low, int64_t high) const {
    const int64_t start = frame.first - frame.before;
    const int64_t at = (tile.pixel - start + tile.offset[k]) * frame_channels;
    float* from = image + start * frame_channels;
    for (int i = 0; i < kTaps; ++i) {
      const float w = weight[i][k];
      const int64_t to = at + tap[i];
      if (w == 0 || to < low || to >= high) continue;
      const F sum = Vector::fma(Vector::set(w), grad, Vector::load_some(from + to, own));
      Vector::store_some(from + to, own, sum);
    }
  }
};

}  // namespace
}  // namespace stn
