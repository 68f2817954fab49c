// Up to 256 neighbouring outputs: where they read, found a vector of lanes at a time.
//
// Positions are kept relative to the pixel under the tile's first output, so that float32 holds
// them to some 1e-6 px at any size. Each axis is clamped to [0, n - 2]; the distance d = x - clamped
// then says everything: in [0, 1) the sample lies between two pixels, else one or none is in reach.
#pragma once

#include "frame.h"

namespace stn {
namespace {

constexpr double kFar = 1 << 22;  // px; float32 still counts quarters there

// How a vector of lanes is to be sampled.
enum Kind : int { kInside, kEdge, kOutside, kSlow };

struct Tile {
  int64_t start;  // first target
  int size, vectors;
  int64_t target[3];  // of the first
  int64_t pixel;      // that all offsets are counted from
  alignas(64) int offset[kTile];
  alignas(64) float d[3][kTile];
  alignas(64) float sign[3][kTile];  // of d px / d x under folding paddings
  alignas(64) float position[3][kTile];
  Kind kind[kVectors];

  int lanes(int v) const { return std::min(N, size - v * N); }
};

// Targets of a vector of lanes, as steps (x, y, z) from the tile's first.
struct Steps {
  F axis[3];
};

// The affine places of one row, relative to a tile.
struct Affine {
  const Places* row = nullptr;
  bool near, wraps;  // whether float32 reaches across a tile; whether tiles cross lines
  float linear[3][3], width, height, per_width, per_height;
  float here[3], before, before_lines;
  int64_t origin[3];

  void set_row(const Places& p) {
    const Call& c = p.call;
    row = &p;
    wraps = c.out[2] < kLine;
    near = true;
    width = static_cast<float>(c.out[2]);
    height = static_cast<float>(c.out[1]);
    per_width = 1 / width;
    per_height = 1 / height;
    for (int a = 0; a < p.dim; ++a) {
      double reach = 0;
      for (int j = 0; j < p.dim; ++j) {
        linear[a][j] = static_cast<float>(p.linear[a][j]);
        if (j == 0 || wraps) reach += std::fabs(p.linear[a][j]) * kTile;
      }
      near &= reach < kFar;  // false where it is not a number
    }
  }

  // False when the tile reaches too far for float32.
  STN_HOT bool set(const Tile& tile, bool absolute) {
    before = static_cast<float>(tile.target[0]);
    before_lines = static_cast<float>(tile.target[1]);
    bool fits = near;
    for (int a = 0; a < row->dim; ++a) {
      const double px = row->line(a, tile.target), start = absolute ? 0 : std::floor(px);
      fits &= std::fabs(px) < kFar;
      origin[a] = static_cast<int64_t>(start);
      here[a] = static_cast<float>(px - start);
    }
    return fits;
  }

  template <int DIM>
  STN_HOT Steps steps(int v) const {
    Steps s;
    F& x = s.axis[0];
    x = Vector::iota() + Vector::set(static_cast<float>(v * N));
    if (wraps) {
      // Whole numbers below 2^9: halves keep the quotients off the integers.
      const F half = Vector::set(0.5f);
      F& y = s.axis[1];
      y = Vector::floor((x + Vector::set(before + 0.5f)) * Vector::set(per_width));
      x = x - y * Vector::set(width);
      if constexpr (DIM == 3) {
        F& z = s.axis[2];
        z = Vector::floor((y + Vector::set(before_lines) + half) * Vector::set(per_height));
        y = y - z * Vector::set(height);
      }
    }
    return s;
  }

  template <int DIM>
  STN_HOT F at(int a, const Steps& s) const {
    F place = Vector::set(here[a]);
    for (int j = wraps ? DIM - 1 : 0; j >= 0; --j) {
      place = Vector::fma(Vector::set(linear[a][j]), s.axis[j], place);
    }
    return place;
  }
};

// Reads one axis of a field along `count` outputs of a line; STEP 0 stands for any other.
template <class T, int STEP>
void read_line(const T* from, int64_t step, int count, T scale, T start, T rise, float* to) {
  if (STEP) step = STEP;
  for (int k = 0; k < count; ++k) {
    to[k] = static_cast<float>(from[k * step] * scale + (start + static_cast<T>(k) * rise));
  }
}

template <class T>
void place_field(const Places& p, Tile& tile, const int64_t* origin) {
  const Call& c = p.call;
  const int64_t step = c.place_stride[1];
  int64_t t[3] = {tile.target[0], tile.target[1], tile.target[2]};
  for (int done = 0; done < tile.size;) {
    const int count = static_cast<int>(std::min<int64_t>(tile.size - done, c.out[2] - t[0]));
    for (int a = 0; a < p.dim; ++a) {
      const T* from = reinterpret_cast<const T*>(p.field) + a * c.place_stride[2] +
                      (tile.start + done) * step;
      const T scale = static_cast<T>(p.scale(a)), rise = a || !c.relative ? 0 : static_cast<T>(p.axis[0].slope);
      const T start = static_cast<T>(p.base(a, t[a]) - static_cast<double>(origin[a]));
      const auto read = step == 1   ? read_line<T, 1>
                        : step == 2 ? read_line<T, 2>
                        : step == 3 ? read_line<T, 3>
                                    : read_line<T, 0>;
      read(from, step, count, scale, start, rise, tile.position[a] + done);
    }
    done += count;
    t[0] = 0;
    if (++t[1] == c.out[1]) t[1] = 0, ++t[2];
  }
}

// Fills tile.position of a field or a projective map, relative to `origin`: the pixel of the first
// place, or 0 where that is exact enough or `absolute` places are asked for.
inline void place(const Places& p, Tile& tile, bool absolute, int64_t* origin) {
  const Call& c = p.call;
  double px[3];
  int64_t t[3] = {tile.target[0], tile.target[1], tile.target[2]};
  p.at(tile.start, t, px);
  // A float32 grid is used as it is: its one rounding is that of the multiply-add.
  absolute |= c.source == kField && !c.places_double && !c.relative;
  for (int a = 0; a < p.dim; ++a) {
    const bool near = !absolute && std::fabs(px[a]) < kFar;
    origin[a] = near ? static_cast<int64_t>(std::floor(px[a])) : 0;
  }
  if (c.source == kField) {
    c.places_double ? place_field<double>(p, tile, origin) : place_field<float>(p, tile, origin);
  } else {
    for (int k = 0; k < tile.size; ++k) {
      p.at(tile.start + k, t, px);
      for (int a = 0; a < p.dim; ++a) {
        tile.position[a][k] = static_cast<float>(px[a] - static_cast<double>(origin[a]));
      }
      if (++t[0] == c.out[2]) {
        t[0] = 0;
        if (++t[1] == c.out[1]) t[1] = 0, ++t[2];
      }
    }
  }
  for (int a = 0; a < p.dim; ++a) {
    for (int k = tile.size; k < tile.vectors * N; ++k) tile.position[a][k] = 0;
  }
}

// Under border, reflection, mirror and wrap: x as the same place inside [0, n - 1], and the sign of
// the derivative. Sets the lanes that need the slow path.
STN_HOT F folded(const Call& c, F x, int64_t n, F& sign, bool& slow) {
  const F zero = Vector::zero(), one = Vector::set(1), last = Vector::set(static_cast<float>(n - 1));
  slow |= !Vector::all(Vector::less(Vector::abs(x), Vector::set(static_cast<float>(kFar))));
  sign = one;
  if (c.padding == kWrap) {
    const F size = Vector::set(static_cast<float>(n));
    const F inside = x - Vector::floor(x / size) * size;
    // The seam has no pair of neighbours in memory.
    slow |= !Vector::all(Vector::less(inside, last));
    return inside;
  }
  if (c.padding != kBorder) {
    const Mirrors mirrors(c, n);
    const F low = Vector::set(static_cast<float>(mirrors.low));
    const F span = Vector::set(static_cast<float>(mirrors.span)), period = span + span;
    x = x - low;
    x = x - Vector::floor(x / period) * period;
    const M first = Vector::less(x, span);
    sign = Vector::select(first, one, zero - one);
    x = Vector::select(first, x, period - x) + low;
    if (mirrors.low == 0) {  // at the mirror itself the derivative is that of the way back
      sign = Vector::select(Vector::less(x, last), sign, zero - sign);
      return Vector::min(Vector::max(x, zero), last);
    }
  }
  const M inside = Vector::without(Vector::less(x, last), Vector::less(x, zero));
  sign = Vector::select(inside, sign, zero);
  return Vector::min(Vector::max(x, zero), last);
}

// Whether any lane has a pixel in reach along every axis.
template <int DIM>
STN_HOT bool reaches(const F* d) {
  M near = Vector::without(Vector::less(d[0], Vector::set(2)), Vector::less(d[0], Vector::set(-1)));
  for (int a = 1; a < DIM; ++a) {
    near = Vector::both(near, Vector::without(Vector::less(d[a], Vector::set(2)),
                                              Vector::less(d[a], Vector::set(-1))));
  }
  return Vector::any(near);
}

template <int DIM, bool FOLD, class At>
STN_HOT void locate_with(const Call& c, const Frame& frame, Tile& tile, const int64_t* origin,
                         At&& at) {
  F low[DIM], high[DIM];
  I step[DIM];
  const bool margin = !FOLD && frame.margin;
  tile.pixel = frame.first;
  for (int a = 0; a < DIM; ++a) {
    const int64_t least = margin ? -kMargin : 0, most = c.in_axis(a) - (margin ? 0 : 2);
    low[a] = Vector::set(static_cast<float>(least - origin[a]));
    high[a] = Vector::set(static_cast<float>(most - origin[a]));
    step[a] = Vector::set_int(static_cast<int>(frame.step[a]));
    tile.pixel += origin[a] * frame.step[a];
  }
  for (int v = 0; v < tile.vectors; ++v) {
    F x[DIM], d[DIM];
    at(v, x);
    I offset;
    bool inside = true, slow = false;
    for (int a = 0; a < DIM; ++a) {
      F base;
      if (margin) {
        x[a] = Vector::min(Vector::max(x[a], low[a]), high[a]);
        base = Vector::floor(x[a]);
      } else {
        if constexpr (FOLD) {
          F sign;
          x[a] = folded(c, x[a], c.in_axis(a), sign, slow);
          Vector::store(tile.sign[a] + v * N, sign);
        }
        const F whole = Vector::floor(x[a]);
        base = Vector::min(Vector::max(whole, low[a]), high[a]);
        inside &= FOLD || Vector::all(Vector::equal(base, whole));
      }
      const I index = Vector::to_int(base);
      offset = a == 0 ? index : Vector::multiply_add(index, step[a], offset);
      d[a] = x[a] - base;
      Vector::store(tile.d[a] + v * N, d[a]);
    }
    Vector::store(tile.offset + v * N, offset);
    tile.kind[v] = slow ? kSlow : inside ? kInside : reaches<DIM>(d) ? kEdge : kOutside;
  }
}

// Finds all lanes of tile number `index`.
template <int DIM, bool FOLD>
STN_HOT void locate(const Places& p, const Tiles& tiles, const Frame& frame, int64_t index,
                    Tile& tile, Affine& affine) {
  const Call& c = p.call;
  tile.start = tiles.start(index);
  tile.size = tiles.size(index);
  tile.vectors = (tile.size + N - 1) / N;
  target_of(c, tile.start, tile.target);
  if (c.source == kAffine) {
    if (affine.row != &p) affine.set_row(p);
    if (!affine.set(tile, FOLD)) {
      for (int v = 0; v < tile.vectors; ++v) tile.kind[v] = kSlow;
      return;
    }
    locate_with<DIM, FOLD>(c, frame, tile, affine.origin, [&](int v, F* x) STN_HOT_LAMBDA {
      const Steps s = affine.steps<DIM>(v);
      for (int a = 0; a < DIM; ++a) x[a] = affine.at<DIM>(a, s);
    });
    return;
  }
  int64_t origin[3];
  place(p, tile, FOLD, origin);
  locate_with<DIM, FOLD>(c, frame, tile, origin, [&](int v, F* x) STN_HOT_LAMBDA {
    for (int a = 0; a < DIM; ++a) x[a] = Vector::load(tile.position[a] + v * N);
  });
}

// The two pixels along one axis: weights, slopes of the weights, and which are in reach.
struct Two {
  F w[2], s[2];
  M in[2];

  template <bool EDGE>
  STN_HOT void set(F d) {
    const F one = Vector::set(1), zero = Vector::zero();
    if constexpr (!EDGE) {
      w[0] = one - d, w[1] = d;
      return;
    }
    const F two = Vector::set(2);
    w[0] = Vector::max(one - Vector::abs(d), zero);
    w[1] = Vector::max(one - Vector::abs(d - one), zero);
    const M below = Vector::without(Vector::less(d, zero), Vector::less(d, zero - one));
    const M between = Vector::without(Vector::less(d, one), Vector::less(d, zero));
    const M above = Vector::without(Vector::less(d, two), Vector::less(d, one));
    s[0] = Vector::select(below, one, Vector::select(between, zero - one, zero));
    s[1] = Vector::select(between, one, Vector::select(above, zero - one, zero));
    in[0] = Vector::without(Vector::less(d, one), Vector::less(d, zero - one));
    in[1] = Vector::without(Vector::less(d, two), Vector::less(d, zero));
  }
};

// What the pixels around a vector of lanes give: values and slopes along the axes.
template <int DIM, bool EDGE>
struct Around {
  static constexpr int kRows = 1 << (DIM - 1);  // pairs of pixels along x
  Two axis[DIM];

  STN_HOT Around(const Tile& tile, int v) {
    for (int a = 0; a < DIM; ++a) axis[a].template set<EDGE>(Vector::load(tile.d[a] + v * N));
  }

  STN_HOT F blend(const Two& t, F a, F b) const { return Vector::fma(t.w[1], b, t.w[0] * a); }
  STN_HOT F rise(const Two& t, F a, F b) const {
    if constexpr (!EDGE) return b - a;
    return Vector::fma(t.s[1], b, t.s[0] * a);
  }

  STN_HOT void load(const float* plane, const Frame& frame, const int* offset, F* left,
                    F* right) const {
    for (int k = 0; k < kRows; k += 2) {
      Vector::quads(plane + frame.tap(2 * k), frame.step[1], offset, left + k, right + k);
    }
    if constexpr (EDGE) keep(left, right);
  }

  // Zero for pixels out of reach, whatever they hold.
  STN_HOT void keep(F* left, F* right) const {
    for (int k = 0; k < kRows; ++k) {
      M in = axis[1].in[k & 1];
      if constexpr (DIM == 3) in = Vector::both(in, axis[2].in[k >> 1]);
      left[k] = Vector::keep(Vector::both(in, axis[0].in[0]), left[k]);
      right[k] = Vector::keep(Vector::both(in, axis[0].in[1]), right[k]);
    }
  }

  STN_HOT F value(const F* left, const F* right) const {
    F h[kRows];
    for (int k = 0; k < kRows; ++k) h[k] = blend(axis[0], left[k], right[k]);
    for (int k = 0; k < kRows; k += 2) h[k / 2] = blend(axis[1], h[k], h[k + 1]);
    return DIM == 2 ? h[0] : blend(axis[DIM - 1], h[0], h[1]);
  }

  STN_HOT void slopes(const F* left, const F* right, F* g) const {
    F h[kRows], x[kRows], y[kRows / 2];
    for (int k = 0; k < kRows; ++k) {
      h[k] = blend(axis[0], left[k], right[k]);
      x[k] = rise(axis[0], left[k], right[k]);
    }
    for (int k = 0; k < kRows; k += 2) {
      x[k / 2] = blend(axis[1], x[k], x[k + 1]);
      y[k / 2] = rise(axis[1], h[k], h[k + 1]);
      h[k / 2] = blend(axis[1], h[k], h[k + 1]);
    }
    if constexpr (DIM == 2) {
      g[0] = x[0], g[1] = y[0];
    } else {
      g[0] = blend(axis[2], x[0], x[1]);
      g[1] = blend(axis[2], y[0], y[1]);
      g[2] = rise(axis[2], h[0], h[1]);
    }
  }
};

}  // namespace
}  // namespace stn
