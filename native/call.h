// What Python hands over, and where each output pixel reads its image.
//
// Coordinates are pixels of the input, x first; sizes are (D, H, W) with D = 1 in two dimensions.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "levels.h"

// What runs for every vector of lanes.
#define STN_HOT inline __attribute__((always_inline))
#define STN_HOT_LAMBDA __attribute__((always_inline))
#define STN_UNROLL _Pragma("GCC unroll 16")

// Everything here belongs to the instruction set it is compiled for: no two of them may share code.
namespace stn {
namespace {

enum Type : int64_t { kFloat, kDouble, kHalf, kBFloat16 };
enum Source : int64_t { kAffine, kProjective, kField };
enum Mode : int64_t { kNearest, kBilinear, kBicubic };
enum Padding : int64_t { kZeros, kBorder, kReflection, kMirror, kWrap };

constexpr int kTile = 256;          // outputs handled together
constexpr int64_t kWide = 128;      // the same on wide outputs
constexpr int kLine = 65;           // from this width on, a tile never crosses a line
constexpr double kNearestW = 1e-6;  // as transforms/projective.py
constexpr int64_t kNowhere = -1;    // index of a tap outside the image

// All fields take 8 bytes: native.py packs them by name, in this order.
struct Call {
  int64_t dim, mode, padding, align_corners;
  int64_t images, rows, channels;  // `rows` samplings in all, rows / images of each image
  int64_t in[3], out[3];
  int64_t channels_last;
  int64_t type;  // of output and grad_output; images are double if it is double, else float
  int64_t source, places_double;
  int64_t place_stride[3];  // of a field: row, point, component
  int64_t normalized, relative;  // a field's unit; whether it is added to the target's own place
  const void* input;
  const void* places;  // matrix minus identity (rows, dim or dim + 1, dim + 1), or a field
  const void* grad_output;
  void* output;
  void* grad_input;
  void* grad_places;  // of the type of places; for fields with grad_stride
  int64_t grad_stride[3];

  int64_t targets() const { return out[0] * out[1] * out[2]; }
  int64_t pixels() const { return in[0] * in[1] * in[2]; }
  int64_t image_of(int64_t row) const { return row / (rows / images); }
  int64_t pixel_stride() const { return channels_last ? channels : 1; }
  int64_t channel_stride() const { return channels_last ? 1 : pixels(); }
  // Sizes in the order of coordinates.
  int64_t in_axis(int axis) const { return in[2 - axis]; }
  int64_t out_axis(int axis) const { return out[2 - axis]; }
};

// Normalised and pixel coordinates along one axis, all linear in the target index t:
// normalised target place = step * t + start; px under the identity = slope * t + offset;
// px of a normalised place s = unit * s + centre. As coords.py.
struct AxisMap {
  double step, start, slope, offset, unit, centre;

  AxisMap() = default;
  AxisMap(int64_t n_in, int64_t n_out, bool align) {
    const double in = static_cast<double>(n_in), out = static_cast<double>(n_out);
    centre = (in - 1) / 2;
    unit = align ? centre : in / 2;
    if (!align) {
      step = 2 / out, start = 1 / out - 1, slope = in / out, offset = (in / out - 1) / 2;
    } else if (n_out > 1) {
      step = 2 / (out - 1), start = -1, slope = (in - 1) / (out - 1), offset = 0;
    } else {
      step = 0, start = 0, slope = 0, offset = centre;
    }
  }
  double identity(double t) const {
    // (2 t + 1) n / 2 m - 1/2 is exact where sizes agree; so is slope * t + offset.
    return slope * t + offset;
  }
};

// A map from target indices to places in one row, in double.
struct Places {
  const Call& call;
  AxisMap axis[3];
  int dim;
  double linear[4][4];  // affine: px = linear * (t, 1); projective: the offset in terms of (t, 1)
  const char* field = nullptr;

  Places(const Call& c, int64_t row) : call(c), dim(static_cast<int>(c.dim)) {
    for (int a = 0; a < dim; ++a) {
      axis[a] = AxisMap(c.in_axis(a), c.out_axis(a), c.align_corners);
    }
    if (c.source == kField) {
      const int64_t bytes = c.places_double ? 8 : 4;
      field = static_cast<const char*>(c.places) + row * c.place_stride[0] * bytes;
      return;
    }
    const int lines = dim + (c.source == kProjective);
    for (int i = 0; i < lines; ++i) {
      double last = value(c.places, (row * lines + i) * (dim + 1) + dim);
      for (int j = 0; j < dim; ++j) {
        const double entry = value(c.places, (row * lines + i) * (dim + 1) + j);
        last += entry * axis[j].start;
        linear[i][j] = entry * axis[j].step;
      }
      linear[i][dim] = last;
    }
    if (c.source == kAffine) {
      for (int i = 0; i < dim; ++i) {
        for (int j = 0; j <= dim; ++j) linear[i][j] *= axis[i].unit;
        linear[i][i] += axis[i].slope;
        linear[i][dim] += axis[i].offset;
      }
    }
  }

  double value(const void* from, int64_t i) const {
    return call.places_double ? static_cast<const double*>(from)[i]
                              : static_cast<double>(static_cast<const float*>(from)[i]);
  }

  double line(int i, const int64_t* t) const {
    double sum = linear[i][dim];
    for (int j = 0; j < dim; ++j) sum += linear[i][j] * static_cast<double>(t[j]);
    return sum;
  }

  // px and, for projective maps, w. Behind the horizon px is not a number.
  double at(int64_t point, const int64_t* t, double* px) const {
    if (call.source == kAffine) {
      for (int i = 0; i < dim; ++i) px[i] = line(i, t);
      return 1;
    }
    if (call.source == kProjective) {
      const double rise = line(dim, t), w = 1 + rise;
      for (int i = 0; i < dim; ++i) {
        const double place = axis[i].step * static_cast<double>(t[i]) + axis[i].start;
        const double shift = (line(i, t) - place * rise) / w;
        px[i] = w > kNearestW ? axis[i].identity(static_cast<double>(t[i])) + axis[i].unit * shift
                              : std::numeric_limits<double>::quiet_NaN();
      }
      return w;
    }
    for (int i = 0; i < dim; ++i) {
      const double f = value(field, point * call.place_stride[1] + i * call.place_stride[2]);
      px[i] = scale(i) * f + base(i, t[i]);
    }
    return 1;
  }

  // A field's px = scale * value + base.
  double scale(int i) const { return call.normalized ? axis[i].unit : 1; }
  double base(int i, int64_t t) const {
    if (call.relative) return axis[i].identity(static_cast<double>(t));
    return call.normalized ? axis[i].centre : 0;
  }
};

// Target indices (x, y, z) of a point of the row-major list.
inline void target_of(const Call& c, int64_t point, int64_t* t) {
  const int64_t line = point / c.out[2];
  t[0] = point - line * c.out[2];
  t[2] = c.dim == 2 ? 0 : line / c.out[1];
  t[1] = line - t[2] * c.out[1];
}

// The tiles of one row: pieces of the list of targets, or, on wide outputs, of its lines.
struct Tiles {
  int64_t width, targets, per_line, count;

  explicit Tiles(const Call& c) : width(c.out[2]), targets(c.targets()) {
    per_line = width >= kLine ? (width + kWide - 1) / kWide : 0;
    count = per_line ? per_line * (targets / width) : (targets + kTile - 1) / kTile;
  }
  int64_t start(int64_t tile) const {
    return per_line ? tile / per_line * width + tile % per_line * kWide : tile * kTile;
  }
  int size(int64_t tile) const {
    const int64_t left = per_line ? width - tile % per_line * kWide : targets - tile * kTile;
    return static_cast<int>(std::min(left, per_line ? kWide : int64_t{kTile}));
  }
};

// d loss / d matrix of one row, summed over samples.
struct MatrixGradient {
  double sum[4][4] = {};

  // A sample at target t, px and w with d loss / d px = g.
  void add(const Places& p, const int64_t* t, const double* px, double w, const double* g) {
    double turn = 0;
    for (int i = 0; i < p.dim; ++i) {
      const AxisMap& own = p.axis[i];
      const double h = g[i] * own.unit / w;
      for (int j = 0; j < p.dim; ++j) {
        sum[i][j] += h * (p.axis[j].step * static_cast<double>(t[j]) + p.axis[j].start);
      }
      sum[i][p.dim] += h;
      if (h != 0) turn -= h * (px[i] - own.centre) / own.unit;
    }
    if (p.call.source == kAffine || turn == 0) return;
    for (int j = 0; j < p.dim; ++j) {
      sum[p.dim][j] += turn * (p.axis[j].step * static_cast<double>(t[j]) + p.axis[j].start);
    }
    sum[p.dim][p.dim] += turn;
  }

  // Affine: sums of g (at [i][dim]) and of g * t in place of single samples.
  void add_sums(const Places& p, const double g[4][4]) {
    for (int i = 0; i < p.dim; ++i) {
      for (int j = 0; j < p.dim; ++j) {
        sum[i][j] += p.axis[i].unit * (p.axis[j].step * g[i][j] + p.axis[j].start * g[i][p.dim]);
      }
      sum[i][p.dim] += p.axis[i].unit * g[i][p.dim];
    }
  }

  void add(const MatrixGradient& other) {
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 4; ++j) sum[i][j] += other.sum[i][j];
    }
  }

  // As the gradient of matrix number `row`, in the matrices' own type.
  void write(const Call& c, int64_t row) const {
    const int64_t lines = c.dim + (c.source == kProjective), columns = c.dim + 1;
    for (int64_t i = 0; i < lines; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t at = (row * lines + i) * columns + j;
        if (c.places_double) {
          static_cast<double*>(c.grad_places)[at] = sum[i][j];
        } else {
          static_cast<float*>(c.grad_places)[at] = static_cast<float>(sum[i][j]);
        }
      }
    }
  }
};

// Each row's sum over its pieces.
inline void write_gradients(const Call& c, const MatrixGradient* sums, int64_t pieces) {
  for (int64_t row = 0; row < c.rows; ++row, sums += pieces) {
    MatrixGradient total;
    for (int64_t k = 0; k < pieces; ++k) total.add(sums[k]);
    total.write(c, row);
  }
}

template <class F>
void for_each_range(int64_t count, int64_t grain, F&& body) {
  parallel(
      count, grain,
      [](int64_t begin, int64_t end, void* context) {
        (*static_cast<std::remove_reference_t<F>*>(context))(begin, end);
      },
      &body);
}

}  // namespace
}  // namespace stn
