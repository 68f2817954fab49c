// Outputs whose columns and lines both keep their places in the image, as in a pure shrink: lines
// of the image are summed once for a whole line of targets.
#pragma once

#include "antialias_target.h"

namespace stn {
namespace {

template <class T>
struct Upright {
  using L = Lanes<T>;
  using V = typename L::V;
  static constexpr int kBlock = 8;

  const Antialias& c;
  Box<T>& box;
  Buffer<AxisWeights<T>> columns;
  Buffer<T> weights, sums;
  Buffer<double> slopes;
  int64_t low, high;  // pixels that the columns read

  Upright(const Antialias& call, Box<T>& own) : c(call), box(own) {}

  // Whether the places (targets, dim) of a row are such.
  static bool fits(const Antialias& c, const double* px) {
    const int64_t dim = c.dim, width = c.out[2];
    const auto same = [](double a, double b) {
      return std::fabs(a - b) <= 1e-12 * (1 + std::fabs(b));
    };
    for (int64_t line = 0; line < c.lines(); ++line) {
      const double* own = px + line * width * dim;
      for (int64_t t = 0; t < width; ++t) {
        if (!same(own[t * dim], px[t * dim])) return false;
        for (int64_t a = 1; a < dim; ++a) {
          if (!same(own[t * dim + a], own[a])) return false;
        }
      }
    }
    return true;
  }

  // False where single targets are less work.
  bool set_row(const Shape& shape, const double* px, int64_t width, int parts) {
    const int64_t count = c.out[2];
    double moves;
    int64_t most = static_cast<int64_t>(2 * shape.extent[0]) + 2;
    if (c.padding == kWrap) most = std::max(most, c.in[2]);
    const int64_t stride = (most + 2 * L::N - 1) / L::N * L::N;
    AxisWeights<T>* column = columns.need(count);
    T* store = weights.need(count * parts * stride);
    low = width, high = 0;
    int64_t work = 0;
    for (int64_t t = 0; t < count; ++t) {
      box.axis(0, shape, box.line[0].fold(px[t * c.dim], shape.reach[0], moves), parts);
      AxisWeights<T>& own = column[t] = box.w[0];
      lay_out(own, width, parts);
      for (int p = 0; p < parts; ++p) {
        T* to = store + (t * parts + p) * stride;
        std::memcpy(to, own.part[p], own.vectors * L::N * sizeof(T));
        own.part[p] = to;
      }
      if (own.vectors == 0) continue;
      work += own.vectors * L::N;
      low = std::min(low, own.at(0, width - L::N));
      high = std::max(high, own.at(own.vectors - 1, width - L::N) + L::N);
    }
    return high - low <= 2 * work;
  }

  bool set_line(const Shape& shape, const double* px, int parts, double* moves) {
    for (int a = static_cast<int>(c.dim) - 1; a > 0; --a) {
      box.axis(a, shape, box.line[a].fold(px[a], shape.reach[a], moves[a]), parts);
      if (box.w[a].count == 0) return false;
    }
    return true;
  }

  double total(int64_t t) const {
    return columns.data[t].sum[0] * box.w[1].sum[0] * box.w[2].sum[0];
  }

  // body(vectors, first pixel) over [low, high).
  template <class F>
  STN_HOT void blocks(F&& body) const {
    int64_t x = low;
    for (; x + kBlock * L::N <= high; x += kBlock * L::N) {
      body(std::integral_constant<int, kBlock>(), x);
    }
    for (; x < high; x += L::N) body(std::integral_constant<int, 1>(), std::min(x, high - L::N));
  }

  // Sums over lines with the weights of one pair of parts.
  template <int PARTS>
  void add_lines(const T* image, int64_t width, const int* part, T* to) const {
    const T *y = box.w[1].part[part[0]], *z = box.w[2].part[part[1]];
    blocks([&](auto many, int64_t x) STN_HOT_LAMBDA {
      constexpr int NV = decltype(many)::value;
      V sum[NV] = {};
      box.template each_line<PARTS>(
          0, c.in[0] * c.in[1], [&](int64_t n, int64_t j, int64_t k) STN_HOT_LAMBDA {
            const V weight = L::set(y[j] * z[k]);
            const T* from = image + n * width + x;
            for (int v = 0; v < NV; ++v) sum[v] += weight * L::load(from + v * L::N);
          });
      for (int v = 0; v < NV; ++v) L::store(to + x + v * L::N, sum[v]);
    });
  }

  STN_HOT static double dot(const AxisWeights<T>& column, int part, const T* line, int64_t last) {
    V sum = {};
    for (int v = 0; v < column.vectors; ++v) {
      const V weight = L::load(column.part[part] + v * L::N);
      sum += weight != 0 ? weight * L::load(line + column.at(v, last)) : V{};
    }
    return L::sum(sum);
  }

  void forward(const Image<T>& image, T* out, int64_t step) {
    T* line = sums.need(image.width);
    for (int64_t channel = 0; channel < c.channels; ++channel) {
      add_lines<1>(image.data + channel * image.channel, image.width, kPairOf[0], line);
      for (int64_t t = 0; t < c.out[2]; ++t) {
        const double sum = dot(columns.data[t], kWeight, line, image.width - L::N);
        out[channel * step + t] = static_cast<T>(columns.data[t].vectors ? sum / total(t) : 0);
      }
    }
  }

  void spread(const Image<T>& image, const T* grad, int64_t step, int64_t from, int64_t to) {
    T* line = sums.need(image.width);
    for (int64_t channel = 0; channel < c.channels; ++channel) {
      std::memset(line + low, 0, (high - low) * sizeof(T));
      for (int64_t t = 0; t < c.out[2]; ++t) {
        const AxisWeights<T>& column = columns.data[t];
        const T own = static_cast<T>(static_cast<double>(grad[channel * step + t]) / total(t));
        for (int v = 0; v < column.vectors; ++v) {
          T* at = line + column.at(v, image.width - L::N);
          L::store(at, L::load(at) + L::load(column.part[kWeight] + v * L::N) * own);
        }
      }
      T* into = image.data + channel * image.channel;
      box.template each_line<1>(from, to, [&](int64_t n, int64_t j, int64_t k) {
        const T weight = box.w[1].part[0][j] * box.w[2].part[0][k];
        T* at = into + n * image.width;
        for (int64_t x = low; x < high; ++x) at[x] += weight * line[x];
      });
    }
  }

  // d loss / d u and d inverse of each target of the line.
  const double* backward_places(const Image<T>& image, const T* grad, int64_t step) {
    const Entries& entries = box.entries;
    const int pairs = c.dim == 2 ? 4 : kPairs, each = entries.count + 1;
    T* lines = sums.need(pairs * image.width);
    double* slope = slopes.need(c.out[2] * 13 + 13);
    double* sum = slope + c.out[2] * 12;
    std::memset(sum, 0, sizeof(double) * 13);
    double* own = all.need(c.out[2] * each);
    std::memset(own, 0, sizeof(double) * c.out[2] * each);
    for (int64_t channel = 0; channel < c.channels; ++channel) {
      const T* from = image.data + channel * image.channel;
      for (int r = 0; r < pairs; ++r) {
        add_lines<kParts>(from, image.width, kPairOf[r], lines + r * image.width);
      }
      for (int64_t t = 0; t < c.out[2]; ++t) {
        const double g = static_cast<double>(grad[channel * step + t]);
        for (int e = 0; e < each; ++e) {
          const bool last = e == entries.count;
          const T* line = lines + (last ? 0 : entries.pair[e]) * image.width;
          const int part = last ? kWeight : entries.part[e][0];
          own[t * each + e] += g * dot(columns.data[t], part, line, image.width - L::N);
        }
      }
    }
    for (int64_t t = 0; t < c.out[2]; ++t) {
      box.w[0] = columns.data[t];
      if (box.w[0].vectors) box.derive(own + t * each, slope + t * 12);
      else std::memset(slope + t * 12, 0, sizeof(double) * 12);
    }
    return slope;
  }

 private:
  Buffer<double> all;
};

}  // namespace
}  // namespace stn
