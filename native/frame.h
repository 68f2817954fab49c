// How the pixels of an image lie in memory while they are sampled.
#pragma once

#include "scalar.h"

namespace stn {
namespace {

using F = Vector::F;
using I = Vector::I;
using M = Vector::M;
constexpr int N = Vector::N;
constexpr int kVectors = kTile / N;

constexpr int64_t kMargin = 2;

// How the pixels of one channel lie in memory. Small images are sampled in a copy with a margin of
// zeros, where no sample needs care.
struct Frame {
  bool margin;
  int64_t step[3];  // from pixel to pixel along x, y, z
  int64_t first;    // pixel (0, 0, 0)
  int64_t before;   // pixels of the first slice, see `slice`, that lie before that one
  int64_t count;    // pixels in all, with the margin

  Frame(const Call& c, bool with_margin) : margin(with_margin) {
    const int64_t wide = margin ? 2 * kMargin : 0;
    step[0] = 1;
    step[1] = c.in[2] + wide;
    step[2] = step[1] * (c.in[1] + wide);
    count = c.dim == 3 ? step[2] * (c.in[0] + wide) : step[2];
    first = margin ? kMargin * (1 + step[1] + (c.dim == 3 ? step[2] : 0)) : 0;
    before = margin ? kMargin * (1 + (c.dim == 3 ? step[1] : 0)) : 0;
  }
  // Of the pixels around a sample, two along each axis.
  int64_t tap(int k) const { return (k & 1) + (k >> 1 & 1) * step[1] + (k >> 2) * step[2]; }
  // The first pixel of a line, counted through all planes.
  int64_t line(const Call& c, int64_t y) const {
    return first + y / c.in[1] * step[2] + y % c.in[1] * step[1];
  }
  // Lines in two dimensions, planes in three.
  int64_t slice(const Call& c) const { return step[c.dim - 1]; }
};

// Copies `count` floats: lines are too short for a call of memcpy each.
STN_HOT void copy_line(const float* from, int64_t count, float* to) {
  int64_t k = 0;
  for (; k + N <= count; k += N) Vector::store(to + k, Vector::load(from + k));
  if (k < count) {
    Vector::store_some(to + k, static_cast<int>(count - k),
                       Vector::load_some(from + k, static_cast<int>(count - k)));
  }
}

// Channels [first, first + count) of an image.
struct Part {
  int64_t first, count;
};

}  // namespace
}  // namespace stn
