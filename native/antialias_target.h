// One target with a separable footprint: its pixels form a box, and weights are products.
#pragma once

#include "antialias_axis.h"

namespace stn {
namespace {

// An image as the loops read it: lines of `width` >= N pixels, so that vectors fit.
template <class T>
struct Image {
  T* data;
  int64_t width, channel;  // pixels from one line to the next, from one channel to the next
};

// The kinds of weights that a line (y, z) needs for derivatives, as (part of y, part of z).
constexpr int kPairs = 9;
constexpr int kPairOf[kPairs][2] = {{kWeight, kWeight},       {kSlope, kWeight},
                                    {kMoment, kWeight},       {kSlopeMoment, kWeight},
                                    {kWeight, kSlope},        {kWeight, kMoment},
                                    {kWeight, kSlopeMoment},  {kSlope, kMoment},
                                    {kMoment, kSlope}};

inline int pair_of(int part_y, int part_z) {
  for (int r = 0; r < kPairs; ++r) {
    if (kPairOf[r][0] == part_y && kPairOf[r][1] == part_z) return r;
  }
  return 0;
}

// What turns sums over a target's pixels into d loss / d p and d loss / d inverse.
struct Entries {
  int count, dim, part[12][3], pair[12];

  explicit Entries(int d) : count(d + d * d), dim(d) {
    for (int e = 0; e < count; ++e) {
      parts_of(d, e, part[e]);
      pair[e] = pair_of(part[e][1], part[e][2]);
    }
  }

  // `slope`: d loss / d u_a and d inverse_ab of one target.
  void write(const Shape& shape, const double* slope, const double* moves, double* grad_px,
             double* grad_inverse) const {
    for (int b = 0; b < dim; ++b) {
      double sum = 0;
      for (int a = 0; a < dim; ++a) sum += shape.inverse[a][b] * slope[a];
      grad_px[b] = sum * moves[b];
    }
    for (int e = dim; e < count; ++e) grad_inverse[e - dim] += slope[e];
  }
};

template <class T>
struct Box {
  using L = Lanes<T>;
  using V = typename L::V;
  static constexpr int kBlock = 4;

  const Antialias& c;
  const Entries entries;
  const Line line[3];
  AxisBuffers<T> room[3];
  AxisWeights<T> w[3];  // x, y, z
  T one[kParts] = {1, 0, 0, 0};
  const WeighAxis<T> weigh, weigh_parts;

  explicit Box(const Antialias& call)
      : c(call), entries(static_cast<int>(call.dim)), line{{call, 0}, {call, 1}, {call, 2}},
        weigh(weigh_axis_of<T, kWeight + 1>(call.kernel)),
        weigh_parts(weigh_axis_of<T, kParts>(call.kernel)) {
    w[2].count = 1;
    for (int p = 0; p < kParts; ++p) {
      w[2].part[p] = one + p;
      w[2].sum[p] = p == 0;
    }
  }

  void axis(int a, const Shape& shape, double px, int parts) {
    const auto run = parts == kParts ? weigh_parts : weigh;
    run(line[a], px, shape.inverse[a][a], shape.extent[a], room[a], w[a]);
  }

  // False where no pixel is read.
  bool place(const Shape& shape, const double* px, int64_t width, int parts) {
    for (int a = static_cast<int>(c.dim) - 1; a >= 0; --a) {
      axis(a, shape, px[a], parts);
      if (w[a].count == 0) return false;
    }
    lay_out(w[0], width, parts);
    return true;
  }

  double total() const { return w[0].sum[0] * w[1].sum[0] * w[2].sum[0]; }

  // body(line of the image, its y, its z) over the lines of the box in [low, high) that weigh.
  template <int PARTS, class F>
  STN_HOT void each_line(int64_t low, int64_t high, F&& body) const {
    const auto weighs = [&](const AxisWeights<T>& axis, int64_t i) {
      bool any = false;
      for (int p = 0; p < PARTS; ++p) any |= axis.part[p][i] != 0;
      return any;
    };
    for (int64_t k = 0; k < w[2].count; ++k) {
      if (!weighs(w[2], k)) continue;
      const int64_t plane = (w[2].low + k) * c.in[1] + w[1].low;
      const int64_t from = std::max<int64_t>(0, low - plane);
      const int64_t to = std::min(w[1].count, high - plane);
      for (int64_t j = from; j < to; ++j) {
        if (weighs(w[1], j)) body(plane + j, j, k);
      }
    }
  }

  template <int NV>
  STN_HOT double value(const T* image, int64_t width, int v0) const {
    V sum[NV] = {};
    int64_t own[NV];
    for (int v = 0; v < NV; ++v) own[v] = w[0].at(v0 + v, width - L::N);
    each_line<1>(0, c.in[0] * c.in[1], [&](int64_t n, int64_t j, int64_t k) STN_HOT_LAMBDA {
      const V weight = L::set(w[1].part[0][j] * w[2].part[0][k]);
      for (int v = 0; v < NV; ++v) sum[v] += weight * L::load(image + n * width + own[v]);
    });
    return dot<NV>(sum, v0, kWeight);
  }

  // Pixels that weigh nothing may hold anything.
  template <int NV>
  STN_HOT double dot(const V* sums, int v0, int part) const {
    V total = {};
    for (int v = 0; v < NV; ++v) {
      const V weight = L::load(w[0].part[part] + (v0 + v) * L::N);
      total += weight != 0 ? weight * sums[v] : V{};
    }
    return L::sum(total);
  }

  // body(integral_constant<blocks>, first vector) over the vectors of a line.
  template <int MOST, class F>
  STN_HOT void blocks(F&& body) const {
    int v = 0;
    for (; v + MOST <= w[0].vectors; v += MOST) body(std::integral_constant<int, MOST>(), v);
    if constexpr (MOST > 2) {
      if (v + 2 <= w[0].vectors) body(std::integral_constant<int, 2>(), v), v += 2;
    }
    for (; v < w[0].vectors; ++v) body(std::integral_constant<int, 1>(), v);
  }

  void forward(const Image<T>& image, T* out, int64_t step) const {
    const double scale = 1 / total();
    for (int64_t channel = 0; channel < c.channels; ++channel) {
      const T* from = image.data + channel * image.channel;
      double sum = 0;
      blocks<kBlock>([&](auto many, int v) {
        sum += value<decltype(many)::value>(from, image.width, v);
      });
      out[channel * step] = static_cast<T>(sum * scale);
    }
  }

  // Adds to the image what falls on its lines [low, high).
  void spread(const Image<T>& image, const T* grad, int64_t step, int64_t low, int64_t high) const {
    const double scale = 1 / total();
    for (int64_t channel = 0; channel < c.channels; ++channel) {
      T* to = image.data + channel * image.channel;
      const T own = static_cast<T>(static_cast<double>(grad[channel * step]) * scale);
      blocks<kBlock>([&](auto many, int v0) STN_HOT_LAMBDA {
        constexpr int NV = decltype(many)::value;
        int64_t at[NV];
        V x[NV];
        for (int v = 0; v < NV; ++v) {
          at[v] = w[0].at(v0 + v, image.width - L::N);
          x[v] = L::load(w[0].part[0] + (v0 + v) * L::N) * own;
        }
        each_line<1>(low, high, [&](int64_t n, int64_t j, int64_t k) STN_HOT_LAMBDA {
          const V weight = L::set(w[1].part[0][j] * w[2].part[0][k]);
          T* line = to + n * image.width;
          for (int v = 0; v < NV; ++v) {
            L::store(line + at[v], L::load(line + at[v]) + weight * x[v]);
          }
        });
      });
    }
  }

  // Sums over the box of the parts' products with sum_c grad_c image_c, by entry; the last is that
  // of the weights alone.
  template <int PAIRS>
  void slopes(const Image<T>& image, const T* grad, int64_t step, double* sums) const {
    blocks<1>([&](auto, int v) STN_HOT_LAMBDA {
      V sum[PAIRS] = {};
      const int64_t at = w[0].at(v, image.width - L::N);
      each_line<kParts>(0, c.in[0] * c.in[1], [&](int64_t n, int64_t j, int64_t k) STN_HOT_LAMBDA {
        const T* from = image.data + n * image.width + at;
        V rise = {};
        for (int64_t channel = 0; channel < c.channels; ++channel) {
          rise += L::load(from + channel * image.channel) * grad[channel * step];
        }
        for (int r = 0; r < PAIRS; ++r) {
          sum[r] += rise * (w[1].part[kPairOf[r][0]][j] * w[2].part[kPairOf[r][1]][k]);
        }
      });
      for (int e = 0; e < entries.count; ++e) {
        sums[e] += dot<1>(sum + entries.pair[e], v, entries.part[e][0]);
      }
      sums[entries.count] += dot<1>(sum, v, kWeight);
    });
  }

  // d loss / d u and d inverse from `slopes`.
  void derive(const double* sums, double* slope) const {
    const double scale = 1 / total(), value = sums[entries.count] * scale;
    for (int e = 0; e < entries.count; ++e) {
      const int* part = entries.part[e];
      const double all = w[0].sum[part[0]] * w[1].sum[part[1]] * w[2].sum[part[2]];
      slope[e] = (sums[e] - value * all) * scale;
    }
  }

  void backward_places(const Image<T>& image, const T* grad, int64_t step, double* slope) const {
    double sums[13] = {};
    c.dim == 2 ? slopes<4>(image, grad, step, sums) : slopes<kPairs>(image, grad, step, sums);
    derive(sums, slope);
  }
};

}  // namespace
}  // namespace stn
