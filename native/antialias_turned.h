// One target with any footprint: a parallelogram (a parallelepiped) of pixels, line by line.
#pragma once

#include "antialias_target.h"

namespace stn {
namespace {

template <class T, int64_t K, int DIM>
struct Turned {
  using L = Lanes<T>;
  using V = typename L::V;
  static constexpr double kReach = kSupport<K>;

  const Antialias& c;
  const Line line[3];
  Buffer<V> sums;

  explicit Turned(const Antialias& call) : c(call), line{{call, 0}, {call, 1}, {call, 2}} {}

  // The taps of one line, `count` lanes from x = pixel on.
  struct Taps {
    V weight, slope[DIM], dx;
  };

  // A line of taps: u_i = inverse_i0 dx + rest_i.
  struct Row {
    double rest[3], dy, dz;
    int64_t y, z, first, last;
  };

  STN_HOT static V weight_of(const Shape& shape, const Row& row, double px, int64_t pixel,
                             int begin, int end, bool slopes, Taps& taps) {
    const V lane = L::iota(), zero = {};
    taps.dx = L::set(static_cast<T>(px - static_cast<double>(pixel))) - lane;
    V k[DIM], d[DIM];
    for (int i = 0; i < DIM; ++i) {
      const V u = taps.dx * static_cast<T>(shape.inverse[i][0]) + static_cast<T>(row.rest[i]);
      kernel<T, K>(u, k[i], d[i]);
    }
    k[0] = lane >= static_cast<T>(begin) ? (lane < static_cast<T>(end) ? k[0] : zero) : zero;
    V weight = k[0];
    for (int i = 1; i < DIM; ++i) weight *= k[i];
    if (slopes) {
      d[0] = lane >= static_cast<T>(begin) ? (lane < static_cast<T>(end) ? d[0] : zero) : zero;
      for (int i = 0; i < DIM; ++i) {
        taps.slope[i] = d[i];
        for (int j = 0; j < DIM; ++j) {
          if (j != i) taps.slope[i] *= k[j];
        }
      }
    }
    return taps.weight = weight;
  }

  // body(row) for the lines of taps that the footprint meets.
  template <class F>
  STN_HOT void each_row(const Shape& shape, const double* px, F&& body) const {
    double steep[DIM], low0[DIM], high0[DIM];
    bool level[DIM];
    for (int i = 0; i < DIM; ++i) {
      const double own = shape.inverse[i][0];
      level[i] = std::fabs(own) * shape.extent[0] < 1e-9;
      steep[i] = level[i] ? 0 : 1 / own;
      low0[i] = std::min(-kReach * steep[i], kReach * steep[i]);
      high0[i] = -low0[i];
    }
    const auto first = [&](int a) {
      return static_cast<int64_t>(std::ceil(px[a] - shape.extent[a]));
    };
    const auto last = [&](int a) {
      return static_cast<int64_t>(std::floor(px[a] + shape.extent[a]));
    };
    Row row;
    const int64_t z1 = DIM == 3 ? last(2) : 0;
    for (row.z = DIM == 3 ? first(2) : 0; row.z <= z1; ++row.z) {
      row.dz = DIM == 3 ? px[2] - static_cast<double>(row.z) : 0;
      const int64_t y1 = last(1);
      for (row.y = first(1); row.y <= y1; ++row.y) {
        row.dy = px[1] - static_cast<double>(row.y);
        double low = -shape.extent[0], high = shape.extent[0];
        for (int i = 0; i < DIM; ++i) {
          row.rest[i] = shape.inverse[i][1] * row.dy;
          if (DIM == 3) row.rest[i] += shape.inverse[i][2] * row.dz;
          if (level[i]) {
            if (std::fabs(row.rest[i]) > kReach) high = low - 1;
          } else {
            const double centre = -row.rest[i] * steep[i];
            low = std::max(low, centre + low0[i]);
            high = std::min(high, centre + high0[i]);
          }
        }
        row.first = static_cast<int64_t>(std::ceil(px[0] - high));
        row.last = static_cast<int64_t>(std::floor(px[0] - low));
        if (row.first <= row.last) body(row);
      }
    }
  }

  // The line of the image that a row of taps reads, or kNowhere.
  STN_HOT int64_t line_of(const Row& row) const {
    int64_t y = row.y, z = row.z;
    if (c.padding == kZeros) {
      if (y < 0 || y >= line[1].n || z < 0 || z >= line[2].n) return kNowhere;
    } else {
      y = line[1].at(y);
      if (DIM == 3) z = line[2].at(z);
    }
    return z * c.in[1] + y;
  }

  // inside(pixel of the first lane, taps), where lanes read neighbouring pixels of the line, and
  // outside(tap of the first lane, lanes, taps).
  template <bool SLOPES, class Inside, class Outside>
  STN_HOT void each_vector(const Shape& shape, const Row& row, double px, int64_t width,
                           bool within, Inside&& inside, Outside&& outside) const {
    Taps taps;
    const int64_t from = within ? std::max<int64_t>(row.first, 0) : row.last + 1;
    const int64_t to = within ? std::min(row.last, line[0].n - 1) : row.last;
    for (int64_t x = from; x <= to; x += L::N) {
      const int64_t pixel = std::min<int64_t>(x, width - L::N);
      const int end = static_cast<int>(std::min<int64_t>(L::N, to + 1 - pixel));
      weight_of(shape, row, px, pixel, static_cast<int>(x - pixel), end, SLOPES, taps);
      inside(pixel, taps);
    }
    const int64_t ends[2][2] = {{row.first, std::min(row.last, from - 1)},
                                {std::max(row.first, std::max(from, to + 1)), row.last}};
    for (const auto& side : ends) {
      for (int64_t x = side[0]; x <= side[1]; x += L::N) {
        const int end = static_cast<int>(std::min<int64_t>(L::N, side[1] + 1 - x));
        weight_of(shape, row, px, x, 0, end, SLOPES, taps);
        outside(x, end, taps);
      }
    }
  }

  STN_HOT V gathered(const T* from, int64_t x, int end) const {
    T some[L::N] = {};
    for (int l = 0; l < end; ++l) some[l] = from[line[0].at(x + l)];
    return L::load(some);
  }

  // Whether a target reads any pixel.
  bool meets(const Shape& shape, const double* px) const {
    if (c.padding != kZeros) return true;
    for (int a = 0; a < DIM; ++a) {
      if (px[a] + shape.extent[a] < 0) return false;
      if (px[a] - shape.extent[a] > static_cast<double>(line[a].n - 1)) return false;
    }
    return true;
  }

  void forward(const Shape& shape, const double* px, const Image<T>& image, T* out, int64_t step) {
    V* sum = sums.need(c.channels), total = {};
    for (int64_t k = 0; k < c.channels; ++k) sum[k] = V{};
    each_row(shape, px, [&](const Row& row) STN_HOT_LAMBDA {
      const int64_t n = line_of(row);
      const T* from = image.data + n * image.width;
      each_vector<false>(
          shape, row, px[0], image.width, n != kNowhere,
          [&](int64_t pixel, const Taps& taps) STN_HOT_LAMBDA {
            const V weight = taps.weight, zero = {};
            total += weight;
            for (int64_t k = 0; k < c.channels; ++k) {
              const V read = L::load(from + k * image.channel + pixel);
              sum[k] += weight * (weight != 0 ? read : zero);
            }
          },
          [&](int64_t x, int end, const Taps& taps) {
            total += taps.weight;
            if (c.padding == kZeros) return;
            for (int64_t k = 0; k < c.channels; ++k) {
              const V read = gathered(from + k * image.channel, x, end);
              sum[k] += taps.weight * (taps.weight != 0 ? read : V{});
            }
          });
    });
    const double scale = 1 / L::sum(total);
    for (int64_t k = 0; k < c.channels; ++k) out[k * step] = static_cast<T>(L::sum(sum[k]) * scale);
  }

  // `total` is the sum of weights.
  void spread(const Shape& shape, const double* px, const Image<T>& image, const T* grad,
              int64_t step, double total, int64_t low, int64_t high) {
    T* own = reinterpret_cast<T*>(sums.need(c.channels));
    for (int64_t k = 0; k < c.channels; ++k) {
      own[k] = static_cast<T>(static_cast<double>(grad[k * step]) / total);
    }
    each_row(shape, px, [&](const Row& row) STN_HOT_LAMBDA {
      const int64_t n = line_of(row);
      if (n < low || n >= high) return;
      T* to = image.data + n * image.width;
      each_vector<false>(
          shape, row, px[0], image.width, true,
          [&](int64_t pixel, const Taps& taps) STN_HOT_LAMBDA {
            for (int64_t k = 0; k < c.channels; ++k) {
              T* at = to + k * image.channel + pixel;
              L::store(at, L::load(at) + taps.weight * own[k]);
            }
          },
          [&](int64_t x, int end, const Taps& taps) {
            if (c.padding == kZeros) return;
            for (int64_t k = 0; k < c.channels; ++k) {
              T* at = to + k * image.channel;
              for (int l = 0; l < end; ++l) at[line[0].at(x + l)] += taps.weight[l] * own[k];
            }
          });
    });
  }

  // Returns the sum of weights.
  double backward_places(const Shape& shape, const double* px, const Image<T>& image, const T* grad,
                         int64_t step, double* slope) {
    // Of slope_i times 1 and times the offset along each axis; with the image's rise and without.
    V sum[DIM][DIM + 1] = {}, all[DIM][DIM + 1] = {}, value = {}, total = {};
    each_row(shape, px, [&](const Row& row) STN_HOT_LAMBDA {
      const int64_t n = line_of(row);
      const T* from = image.data + n * image.width;
      const T dy = static_cast<T>(row.dy), dz = static_cast<T>(row.dz);
      const auto add = [&](const Taps& taps, V rise) STN_HOT_LAMBDA {
        const V zero = {};
        value += taps.weight != 0 ? taps.weight * rise : zero;
        total += taps.weight;
        for (int i = 0; i < DIM; ++i) {
          const V slope = taps.slope[i], product = slope != 0 ? slope * rise : zero;
          all[i][0] += slope;
          sum[i][0] += product;
          all[i][1] += slope * taps.dx;
          sum[i][1] += product * taps.dx;
          all[i][2] += slope * dy;
          sum[i][2] += product * dy;
          if constexpr (DIM == 3) {
            all[i][3] += slope * dz;
            sum[i][3] += product * dz;
          }
        }
      };
      each_vector<true>(
          shape, row, px[0], image.width, n != kNowhere,
          [&](int64_t pixel, const Taps& taps) STN_HOT_LAMBDA {
            V rise = {};
            for (int64_t k = 0; k < c.channels; ++k) {
              rise += L::load(from + k * image.channel + pixel) * grad[k * step];
            }
            add(taps, rise);
          },
          [&](int64_t x, int end, const Taps& taps) {
            V rise = {};
            for (int64_t k = 0; k < c.channels && c.padding != kZeros; ++k) {
              rise += gathered(from + k * image.channel, x, end) * grad[k * step];
            }
            add(taps, rise);
          });
    });
    const double weights = L::sum(total), mean = L::sum(value) / weights;
    for (int i = 0; i < DIM; ++i) {
      for (int b = 0; b <= DIM; ++b) {
        const double own = (L::sum(sum[i][b]) - mean * L::sum(all[i][b])) / weights;
        slope[b == 0 ? i : DIM + i * DIM + b - 1] = own;
      }
    }
    return weights;
  }
};

}  // namespace
}  // namespace stn
