// One sample at a time, in double coordinates: every mode and padding, images of any size. The
// vector kernels leave to it what they do not do, and the few samples that need care.
#pragma once

#include <algorithm>

#include "call.h"

namespace stn {
namespace {

inline float widen(uint16_t bits, bool half) {
  uint32_t wide;
  float value;
  if (!half) {
    wide = static_cast<uint32_t>(bits) << 16;
  } else {
    const uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, digits = bits & 1023;
    if (exponent == 0) {
      value = std::ldexp(static_cast<float>(digits), -24);
      return sign ? -value : value;
    }
    wide = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | digits << 13;
  }
  std::memcpy(&value, &wide, 4);
  return value;
}

inline uint16_t narrow(float value, bool half) {
  uint32_t wide;
  std::memcpy(&wide, &value, 4);
  if (!half) {
    if (value != value) return 0x7fc0;
    return static_cast<uint16_t>((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
  }
  const uint16_t sign = static_cast<uint16_t>(wide >> 16 & 0x8000);
  const float size = std::fabs(value);
  if (value != value) return static_cast<uint16_t>(sign | 0x7e00);
  if (size >= 65520) return static_cast<uint16_t>(sign | 0x7c00);
  if (size < 6.103515625e-05f) {  // below the least normal number: a multiple of 2^-24
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(size * 16777216)));
  }
  wide = (wide & 0x7fffffff) + 0xfff + (wide >> 13 & 1);
  return static_cast<uint16_t>(sign | static_cast<uint16_t>((wide - 0x38000000) >> 13));
}

template <class T>
T read(const void* from, int64_t i, int64_t type) {
  if (type == kDouble) return static_cast<T>(static_cast<const double*>(from)[i]);
  if (type == kFloat) return static_cast<T>(static_cast<const float*>(from)[i]);
  return static_cast<T>(widen(static_cast<const uint16_t*>(from)[i], type == kHalf));
}

template <class T>
void write(void* to, int64_t i, int64_t type, T value) {
  if (type == kDouble) {
    static_cast<double*>(to)[i] = static_cast<double>(value);
  } else if (type == kFloat) {
    static_cast<float*>(to)[i] = static_cast<float>(value);
  } else {
    static_cast<uint16_t*>(to)[i] = narrow(static_cast<float>(value), type == kHalf);
  }
}

inline int64_t floor_mod(int64_t a, int64_t n) {
  const int64_t rest = a % n;
  return rest < 0 ? rest + n : rest;
}

inline double floor_mod(double a, double n) {
  const double rest = std::fmod(a, n);
  return rest < 0 ? rest + n : rest;
}

// The mirrors of a padding mode, as padding.py: low, and the distance to the other.
struct Mirrors {
  double low;
  int64_t span;

  Mirrors(const Call& c, int64_t n) {
    const bool centres = c.padding == kMirror || c.align_corners;
    low = centres ? 0 : -0.5;
    span = centres ? n - 1 : n;
  }
};

// Coordinates near the image, with the same reading; sets the sign of the derivative.
inline double fold(const Call& c, double x, int64_t n, int margin, double& sign) {
  const double size = static_cast<double>(n);
  sign = 1;
  if (c.padding == kWrap) return floor_mod(x, size);
  if (c.padding == kZeros || c.padding == kBorder) {
    return std::min(std::max(x, -1.0 - margin), size + margin);
  }
  const Mirrors mirrors(c, n);
  if (mirrors.span == 0) {
    sign = 0;
    return 0;
  }
  const double span = static_cast<double>(mirrors.span);
  double inside = floor_mod(x - mirrors.low, 2 * span);
  if (inside >= span) {
    sign = -1;
    inside = 2 * span - inside;
  }
  return mirrors.low + inside;
}

// What a tap outside the image reads.
inline int64_t tap(const Call& c, int64_t index, int64_t n) {
  if (index >= 0 && index < n) return index;
  if (c.padding == kZeros) return kNowhere;
  if (c.padding == kBorder) return index < 0 ? 0 : n - 1;
  if (c.padding == kWrap) return floor_mod(index, n);
  const Mirrors mirrors(c, n);
  if (mirrors.span == 0) return 0;
  const int64_t twice_low = static_cast<int64_t>(2 * mirrors.low), period = 4 * mirrors.span;
  int64_t inside = floor_mod(2 * index - twice_low, period);
  if (inside > period / 2) inside = period - inside;
  return (inside + twice_low) / 2;
}

// The pixels that one sample reads along one axis, their weights, and d weight / d px.
template <class T>
struct Axis {
  int count;
  int64_t index[4];
  T weight[4], slope[4];

  Axis(const Call& c, double x, int64_t n) {
    constexpr double A = -0.75;
    double w[4] = {1, 0, 0, 0}, s[4] = {0, 0, 0, 0}, sign;
    int64_t first;
    if (c.mode == kNearest) {
      count = 1;
      first = static_cast<int64_t>(std::nearbyint(fold(c, x, n, 1, sign)));
    } else {
      const int margin = c.mode == kBicubic ? 2 : 1;
      const double folded = fold(c, x, n, margin, sign), base = std::floor(folded);
      const double t = folded - base, u = 1 - t;
      count = 2 * margin;
      first = static_cast<int64_t>(base) + 1 - margin;
      if (c.mode == kBilinear) {
        w[0] = u, w[1] = t, s[0] = -1, s[1] = 1;
      } else {
        const auto near = [](double d) { return ((A + 2) * d - (A + 3)) * d * d + 1; };
        const auto far = [](double d) { return ((A * d - 5 * A) * d + 8 * A) * d - 4 * A; };
        const auto near_slope = [](double d) { return (3 * (A + 2) * d - 2 * (A + 3)) * d; };
        const auto far_slope = [](double d) { return (3 * A * d - 10 * A) * d + 8 * A; };
        w[0] = far(t + 1), w[1] = near(t), w[2] = near(u), w[3] = far(u + 1);
        s[0] = far_slope(t + 1), s[1] = near_slope(t), s[2] = -near_slope(u), s[3] = -far_slope(u + 1);
      }
    }
    for (int k = 0; k < count; ++k) {
      index[k] = tap(c, first + k, n);
      weight[k] = static_cast<T>(w[k]);
      slope[k] = static_cast<T>(sign * s[k]);
    }
  }
};

// All pixels that one sample reads, as offsets in a channel of one image.
template <class T>
struct Taps {
  int count = 0;
  int64_t offset[64];
  T weight[64], slope[3][64];

  Taps(const Call& c, const double* px) {
    for (int a = 0; a < c.dim; ++a) {
      if (!std::isfinite(px[a])) return;
    }
    const Axis<T> x(c, px[0], c.in[2]), y(c, px[1], c.in[1]);
    if (c.dim == 2) {
      add_plane(c, x, y, 0, 1, 0);
      return;
    }
    const Axis<T> z(c, px[2], c.in[0]);
    for (int k = 0; k < z.count; ++k) {
      if (z.index[k] != kNowhere) add_plane(c, x, y, z.index[k], z.weight[k], z.slope[k]);
    }
  }

 private:
  void add_plane(const Call& c, const Axis<T>& x, const Axis<T>& y, int64_t z, T wz, T sz) {
    for (int j = 0; j < y.count; ++j) {
      if (y.index[j] == kNowhere) continue;
      const int64_t line = (z * c.in[1] + y.index[j]) * c.in[2];
      const T wy = wz * y.weight[j], sy = wz * y.slope[j], dz = sz * y.weight[j];
      for (int i = 0; i < x.count; ++i) {
        if (x.index[i] == kNowhere) continue;
        offset[count] = (line + x.index[i]) * c.pixel_stride();
        weight[count] = wy * x.weight[i];
        slope[0][count] = wy * x.slope[i];
        slope[1][count] = sy * x.weight[i];
        slope[2][count++] = dz * x.weight[i];
      }
    }
  }
};

template <class T>
struct Scalar {
  static const T* image(const Call& c, int64_t row) {
    return static_cast<const T*>(c.input) + c.image_of(row) * c.channels * c.pixels();
  }
  // Where channel 0 of a point lies in output and grad_output.
  static int64_t output_at(const Call& c, int64_t row, int64_t point) {
    return row * c.channels * c.targets() + point * c.pixel_stride();
  }
  static int64_t output_step(const Call& c) { return c.channels_last ? 1 : c.targets(); }

  static Taps<T> taps(const Places& p, int64_t point, int64_t* t, double* px, double& w) {
    target_of(p.call, point, t);
    w = p.at(point, t, px);
    return Taps<T>(p.call, px);
  }

  static void forward(const Places& p, int64_t row, int64_t begin, int64_t end) {
    const Call& c = p.call;
    const T* from = image(c, row);
    int64_t t[3];
    double px[3], w;
    for (int64_t point = begin; point < end; ++point) {
      const Taps<T> own = taps(p, point, t, px, w);
      const int64_t to = output_at(c, row, point), step = output_step(c);
      for (int64_t channel = 0; channel < c.channels; ++channel) {
        const T* plane = from + channel * c.channel_stride();
        T sum = 0;
        for (int k = 0; k < own.count; ++k) sum += own.weight[k] * plane[own.offset[k]];
        write(c.output, to + channel * step, c.type, sum);
      }
    }
  }

  // d loss / d px of one point.
  static void slopes(const Call& c, int64_t row, int64_t point, const Taps<T>& own, double* g) {
    const T* from = image(c, row);
    const int64_t at = output_at(c, row, point), step = output_step(c);
    T sum[3] = {0, 0, 0};
    for (int64_t channel = 0; channel < c.channels; ++channel) {
      const T* plane = from + channel * c.channel_stride();
      const T grad = read<T>(c.grad_output, at + channel * step, c.type);
      for (int a = 0; a < c.dim; ++a) {
        T rise = 0;
        for (int k = 0; k < own.count; ++k) rise += own.slope[a][k] * plane[own.offset[k]];
        sum[a] += grad * rise;
      }
    }
    for (int a = 0; a < 3; ++a) g[a] = static_cast<double>(sum[a]);
  }

  static void write_field_gradient(const Places& p, int64_t row, int64_t point, const double* g) {
    const Call& c = p.call;
    for (int a = 0; a < c.dim; ++a) {
      const int64_t at =
          row * c.grad_stride[0] + point * c.grad_stride[1] + a * c.grad_stride[2];
      write(c.grad_places, at, c.places_double ? kDouble : kFloat, g[a] * p.scale(a));
    }
  }

  static void backward_places(const Places& p, int64_t row, int64_t begin, int64_t end,
                              MatrixGradient& total) {
    int64_t t[3];
    double px[3], w, g[3];
    for (int64_t point = begin; point < end; ++point) {
      const Taps<T> own = taps(p, point, t, px, w);
      slopes(p.call, row, point, own, g);
      if (p.call.source == kField) {
        write_field_gradient(p, row, point, g);
      } else if (own.count) {
        total.add(p, t, px, w, g);
      }
    }
  }

  // Adds to grad_input what falls on pixels [low, high) of the image.
  static void backward_input(const Places& p, int64_t row, int64_t begin, int64_t end, int64_t low,
                             int64_t high) {
    const Call& c = p.call;
    T* to = static_cast<T*>(c.grad_input) + c.image_of(row) * c.channels * c.pixels();
    int64_t t[3];
    double px[3], w;
    low *= c.pixel_stride(), high *= c.pixel_stride();
    for (int64_t point = begin; point < end; ++point) {
      const Taps<T> own = taps(p, point, t, px, w);
      const int64_t at = output_at(c, row, point), step = output_step(c);
      for (int64_t channel = 0; channel < c.channels; ++channel) {
        T* plane = to + channel * c.channel_stride();
        const T grad = read<T>(c.grad_output, at + channel * step, c.type);
        for (int k = 0; k < own.count; ++k) {
          if (own.offset[k] >= low && own.offset[k] < high) {
            plane[own.offset[k]] += own.weight[k] * grad;
          }
        }
      }
    }
  }
};

}  // namespace
}  // namespace stn
