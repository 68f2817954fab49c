// Antialiased sampling: what Python hands over, the widened kernels and where they reach.
//
// The weight of pixel m at place p is prod_axis k((inverse (p - m))_axis) over the sum of all
// weights, see src/stn/sampling/antialias.py. All coordinates and sums over targets are double.
#pragma once

#include <cstdlib>

#include "call.h"

namespace stn {
namespace {

enum Widened : int64_t { kTent, kCubic, kLanczos3, kGaussian };
enum Part : int { kWeight, kSlope, kMoment, kSlopeMoment, kParts };  // k, k', k d, k' d

// All fields take 8 bytes: antialias_ops.py packs them in this order.
struct Antialias {
  int64_t level, dim, kernel, padding, align_corners;
  int64_t images, rows, channels;  // `rows` samplings in all, rows / images of each image
  int64_t in[3], out[3];           // (D, H, W), planar
  int64_t is_double;               // images and outputs; else float
  int64_t constant;                // one footprint a row, not one a target
  const void* input;
  const double* px;       // (rows, targets, dim), x first
  const double* inverse;  // (rows, 1 or targets, dim, dim)
  const void* grad_output;
  void* output;
  void* grad_input;
  double* grad_px;
  double* grad_inverse;
  double* total;  // (rows, targets): sums of weights, written with grad_px, read for grad_input

  int64_t targets() const { return out[0] * out[1] * out[2]; }
  int64_t lines() const { return out[0] * out[1]; }
  int64_t pixels() const { return in[0] * in[1] * in[2]; }
  int64_t image_of(int64_t row) const { return row / (rows / images); }
  int64_t in_axis(int axis) const { return in[2 - axis]; }
};

// A vector of lanes, as wide as the instruction set; without one, what the compiler makes of it.
template <class T>
struct Lanes {
#if defined(__AVX512F__)
  static constexpr int kBytes = 64;
#elif defined(__AVX__)
  static constexpr int kBytes = 32;
#else
  static constexpr int kBytes = 16;
#endif
  static constexpr int N = kBytes / sizeof(T);
  typedef T V __attribute__((vector_size(kBytes)));

  STN_HOT static V load(const T* p) {
    V v;
    std::memcpy(&v, p, sizeof(V));
    return v;
  }
  STN_HOT static void store(T* p, V v) { std::memcpy(p, &v, sizeof(V)); }
  STN_HOT static V set(T x) { return V{} + x; }
  STN_HOT static V iota() {
    V v;
    for (int l = 0; l < N; ++l) v[l] = static_cast<T>(l);
    return v;
  }
  STN_HOT static double sum(V v) {
    double sum = 0;
    T part[N];
    store(part, v);
    for (int width = N / 2; width; width /= 2) {
      for (int l = 0; l < width; ++l) part[l] += part[l + width];
    }
    return sum + static_cast<double>(part[0]);
  }
};

// Polynomials for sin(sqrt x) / sqrt x up to pi^2 and exp x down to -9 / 8: Taylor series, and for
// float the best one at Chebyshev's points, wrong by 6e-8.
template <class T>
struct Series {
  static constexpr int kSinc = sizeof(T) == 8 ? 14 : 6, kExp = sizeof(T) == 8 ? 13 : 7;
  T sinc[kSinc], exp[kExp];
  constexpr Series() : sinc(), exp() {
    double term = 1;
    for (int k = 0; k < kSinc; ++k) {
      sinc[k] = static_cast<T>(term);
      term /= -(2.0 * k + 2) * (2 * k + 3);
    }
    if constexpr (sizeof(T) == 4) {
      constexpr T best[] = {0.999999937f,     -0.166666207f,   0.00833278847f,
                            -0.000198175451f, 2.70873177e-06f, -2.06941101e-08f};
      for (int k = 0; k < kSinc; ++k) sinc[k] = best[k];
    }
    term = 1;
    for (int k = 0; k < kExp; ++k) {
      exp[k] = static_cast<T>(term);
      term /= k + 1;
    }
  }
};

template <int64_t K>
constexpr double kSupport = K == kTent ? 1 : K == kCubic ? 2 : 3;

// k(u) and k'(u), the right-hand one at kinks; zero outside (-support, support).
template <class T, int64_t K>
STN_HOT void kernel(typename Lanes<T>::V u, typename Lanes<T>::V& value,
                    typename Lanes<T>::V& slope) {
  using V = typename Lanes<T>::V;
  constexpr T reach = static_cast<T>(kSupport<K>);
  constexpr Series<T> series;
  const V zero = {}, one = zero + 1;
  const V d = u > -u ? u : -u, square = u * u;
  if constexpr (K == kTent) {
    value = one - d;
    value = value > zero ? value : zero;
    slope = u >= 0 ? -one : one;
    slope = u >= -1 ? (u < 1 ? slope : zero) : zero;
    return;
  } else if constexpr (K == kCubic) {
    constexpr T A = static_cast<T>(-0.75);
    const V near = ((A + 2) * d - (A + 3)) * square + 1;
    const V far = ((A * d - 5 * A) * d + 8 * A) * d - 4 * A;
    const V near_slope = (3 * (A + 2) * d - 2 * (A + 3)) * u;
    const V far_slope = (3 * A * d - 10 * A) * d + 8 * A;
    value = d < 1 ? near : far;
    slope = d < 1 ? near_slope : (u >= 0 ? far_slope : -far_slope);
  } else if constexpr (K == kLanczos3) {
    // With q = sinc(u / 3) and sin 3 a = 3 sin a - 4 sin^3 a: q sinc(u) = q^2 - 4 x q^4 / 3.
    constexpr T unit = static_cast<T>(M_PI * M_PI / 9), most = static_cast<T>(M_PI * M_PI);
    V x = square * unit;
    x = x < most ? x : zero + most;
    V q = zero + series.sinc[Series<T>::kSinc - 1], rise = zero;
    for (int k = Series<T>::kSinc - 2; k >= 0; --k) {
      rise = rise * x + q;
      q = q * x + series.sinc[k];
    }
    const V qq = q * q, w = x * qq;
    value = qq * (1 - w * static_cast<T>(4.0 / 3));
    V by_x = 2 * q * rise * (1 - w * static_cast<T>(8.0 / 3));
    by_x -= qq * qq * static_cast<T>(4.0 / 3);
    slope = by_x * (2 * unit) * u;
  } else {
    constexpr T least = static_cast<T>(-9.0 / 8);
    V x = square * static_cast<T>(-2.0 / 16);  // exp(-2 d^2) = exp(x)^16
    x = x > least ? x : zero + least;
    V e = zero + series.exp[Series<T>::kExp - 1];
    for (int k = Series<T>::kExp - 2; k >= 0; --k) e = e * x + series.exp[k];
    e = e * e;
    e = e * e;
    e = e * e;
    e = e * e;
    value = e - static_cast<T>(1.5229979744712629e-08);  // exp(-18)
    slope = e * -4 * u;
  }
  value = square < reach * reach ? value : zero;
  if constexpr (K == kGaussian) {  // the one that ends with a slope
    slope = u >= -reach ? (u < reach ? slope : zero) : zero;
  } else {
    slope = square < reach * reach ? slope : zero;
  }
}

// Memory that grows, never shared.
template <class T>
struct Buffer {
  T* data = nullptr;
  int64_t count = 0;

  Buffer() = default;
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(data); }
  T* need(int64_t n) {
    if (n > count) {
      std::free(data);
      count = n + n / 2;
      data = static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64));
    }
    return data;
  }
};

inline int64_t remainder_of(int64_t a, int64_t n) {
  const int64_t rest = a % n;
  return rest < 0 ? rest + n : rest;
}

// One axis of the image: n pixels and what lies outside, as padding.py.
struct Line {
  int64_t n, padding, twice_low = 0, span = 1;

  Line() = default;
  Line(const Antialias& c, int axis) : n(c.in_axis(axis)), padding(c.padding) {
    if (padding != kReflection && padding != kMirror) return;
    const bool centres = padding == kMirror || c.align_corners;
    twice_low = centres ? 0 : -1;
    span = centres ? n - 1 : n;
  }

  // A place near the image with the same reading; `moves` is its derivative, 0 or 1.
  double fold(double x, double reach, double& moves) const {
    moves = 1;
    const double size = static_cast<double>(n);
    if (padding == kZeros || padding == kBorder) {
      const double inside = std::min(std::max(x, -reach - 1), size + reach);
      moves = inside == x;
      return inside;
    }
    if (span == 0) {
      moves = 0;
      return 0;
    }
    const double low = padding == kWrap ? 0 : 0.5 * static_cast<double>(twice_low);
    const double period = padding == kWrap ? size : 2.0 * static_cast<double>(span);
    double inside = x - low;
    if (!(inside >= 0 && inside < period)) {
      inside = std::fmod(inside, period);
      if (inside < 0) inside += period;
    }
    return low + inside;
  }

  // The pixel that a tap outside the image reads; not for zeros.
  int64_t at(int64_t tap) const {
    if (tap >= 0 && tap < n) return tap;
    if (padding == kWrap) return remainder_of(tap, n);
    if (padding == kBorder) return tap < 0 ? 0 : n - 1;
    if (span == 0) return 0;
    int64_t inside = remainder_of(2 * tap - twice_low, 4 * span);
    if (inside > 2 * span) inside = 4 * span - inside;
    return (inside + twice_low) / 2;
  }
};

// A footprint: its inverse, and how far a kernel of this support reaches along the axes.
struct Shape {
  double inverse[3][3], extent[3], reach[3];
  bool separable;

  Shape() = default;
  // `slack`: what an offset in the kernel's own unit may be wrong by.
  Shape(const double* from, int dim, double support, double slack) {
    double f[3][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}};
    for (int i = 0; i < 3; ++i) {
      for (int j = 0; j < 3; ++j) {
        inverse[i][j] = i < dim && j < dim ? from[i * dim + j] : i == j;
      }
    }
    const auto& m = inverse;
    const auto minor = [&](int i, int j, int k, int l) {
      return m[i][k] * m[j][l] - m[i][l] * m[j][k];
    };
    const double det = m[0][0] * minor(1, 2, 1, 2) - m[0][1] * minor(1, 2, 0, 2) +
                       m[0][2] * minor(1, 2, 0, 1);
    for (int i = 0; i < 3; ++i) {
      const int a = i == 0, b = i == 2 ? 1 : 2;
      for (int j = 0; j < 3; ++j) {
        const int k = j == 0, l = j == 2 ? 1 : 2;
        f[j][i] = ((i + j) % 2 ? -1 : 1) * minor(a, b, k, l) / det;
      }
    }
    separable = true;
    for (int i = 0; i < 3; ++i) {
      extent[i] = 0;
      for (int j = 0; j < 3; ++j) extent[i] += (i < dim && j < dim) * support * std::fabs(f[i][j]);
      // As antialias.py groups its targets: places further out than this are all alike.
      const double whole = std::max(1.0, std::ceil(extent[i] - 1e-6));
      const double step = std::exp2(std::max(0.0, std::floor(std::log2(whole)) - 2));
      reach[i] = std::ceil(whole / step) * step;
    }
    for (int i = 0; i < dim; ++i) {
      for (int j = 0; j < dim; ++j) {
        separable &= i == j || std::fabs(inverse[i][j]) * extent[j] < slack;
      }
    }
  }
};

// Offsets of the parts that make up the derivatives to p and to the inverse, along each axis.
// Entry a: d / d u_a; entry dim + a dim + b: d / d inverse_ab.
inline void parts_of(int dim, int entry, int* part) {
  for (int a = 0; a < 3; ++a) part[a] = kWeight;
  if (entry < dim) {
    part[entry] = kSlope;
    return;
  }
  const int a = (entry - dim) / dim, b = (entry - dim) % dim;
  part[b] = kMoment;
  part[a] = a == b ? kSlopeMoment : kSlope;
}

}  // namespace
}  // namespace stn
