// The channels of planar images laid side by side in a scratch: sixteen of them in a cache line a
// pixel, then the next sixteen.
#pragma once

#include "frame.h"

namespace stn {
namespace {

constexpr int64_t kPack = 16;

// Where a channel of pixel 0 lies.
inline int64_t packed_at(const Frame& frame, int64_t channel) {
  return channel / kPack * kPack * frame.count + channel % kPack;
}

template <bool FULL>
STN_HOT void transpose_block(const float* from, int64_t from_step, int rows, int columns, float* to,
                             int64_t to_step) {
  F v[N];
  STN_UNROLL for (int k = 0; k < N; ++k) {
    const float* line = from + k * from_step;
    v[k] = FULL ? Vector::load(line) : k < rows ? Vector::load_some(line, columns) : Vector::zero();
  }
  Vector::transpose(v);
  if constexpr (FULL) {
    STN_UNROLL for (int k = 0; k < N; ++k) Vector::store(to + k * to_step, v[k]);
  } else {
    for (int k = 0; k < columns; ++k) Vector::store_some(to + k * to_step, rows, v[k]);
  }
}

// Rows `from_step` floats apart as columns, in rows `to_step` apart.
inline void transpose(const float* from, int64_t from_step, int64_t rows, int64_t columns, float* to,
                      int64_t to_step) {
  for (int64_t row = 0; row < rows; row += N) {
    const int high = static_cast<int>(std::min<int64_t>(N, rows - row));
    for (int64_t column = 0; column < columns; column += N) {
      const int wide = static_cast<int>(std::min<int64_t>(N, columns - column));
      const float* here = from + row * from_step + column;
      float* there = to + column * to_step + row;
      high == N && wide == N ? transpose_block<true>(here, from_step, N, N, there, to_step)
                             : transpose_block<false>(here, from_step, high, wide, there, to_step);
    }
  }
}

// Lines (planes in 3-D) [low, high) of N channels, a few in one go: memory likes few streams.
// body(group, own, line, last, x, wide): channels [group, group + own), lines [line, last), pixels
// [x, x + wide) of each; all of a line where there are several.
template <class Body>
void for_strips(const Call& c, const Part& part, int64_t low, int64_t high, Body&& body) {
  const int64_t width = c.in[2], each = c.dim == 2 ? 1 : c.in[1];
  const int64_t many = std::max<int64_t>(1, kTile / width);
  for (int64_t group = 0; group < part.count; group += N) {
    const int64_t own = std::min<int64_t>(N, part.count - group);
    for (int64_t line = low * each; line < high * each; line += many) {
      const int64_t last = std::min(high * each, line + many);
      for (int64_t x = 0; x < width; x += kTile) {
        body(group, own, line, last, x, std::min<int64_t>(kTile, width - x));
      }
    }
  }
}

// All lines of some channels of an image; a margin stays as it is.
inline void pack_image(const Call& c, const Frame& frame, const Part& part, const float* from,
                       float* to) {
  alignas(64) float strip[N][kTile];
  from += part.first * c.pixels();
  for_strips(c, part, 0, c.in[3 - c.dim],
             [&](int64_t group, int64_t own, int64_t line, int64_t last, int64_t x, int64_t wide) {
    const float* plane = from + group * c.pixels() + line * c.in[2] + x;
    for (int64_t k = 0; k < own; ++k) copy_line(plane + k * c.pixels(), (last - line) * wide, strip[k]);
    float* packed = to + packed_at(frame, group) + x * kPack;
    for (int64_t y = line; y < last; ++y) {
      transpose(strip[0] + (y - line) * wide, kTile, own, wide, packed + frame.line(c, y) * kPack,
                kPack);
    }
  });
}

// Lines (planes in 3-D) [low, high).
inline void unpack_image(const Call& c, const Frame& frame, const Part& part, const float* from,
                         float* to, int64_t low, int64_t high) {
  alignas(64) float strip[N][kTile];
  to += part.first * c.pixels();
  for_strips(c, part, low, high,
             [&](int64_t group, int64_t own, int64_t line, int64_t last, int64_t x, int64_t wide) {
    const float* packed = from + packed_at(frame, group) + x * kPack;
    for (int64_t y = line; y < last; ++y) {
      transpose(packed + frame.line(c, y) * kPack, kPack, wide, own, strip[0] + (y - line) * wide,
                kTile);
    }
    float* plane = to + group * c.pixels() + line * c.in[2] + x;
    for (int64_t k = 0; k < own; ++k) copy_line(strip[k], (last - line) * wide, plane + k * c.pixels());
  });
}

}  // namespace
}  // namespace stn
