// The weights of one target along one axis, gathered on the pixels that its taps read.
#pragma once

#include "antialias.h"

namespace stn {
namespace {

// Along x weights are stored as whole vectors, the last one moved back into the line.
template <class T>
struct AxisWeights {
  int64_t low = 0, count = 0;  // pixels read
  int vectors = 0;
  double sum[kParts];  // over all taps, those outside the image too
  T* part[kParts];

  int64_t at(int v, int64_t last) const {
    return std::min<int64_t>(low + v * Lanes<T>::N, last);
  }
};

template <class T>
struct AxisBuffers {
  Buffer<T> taps, pixels;
};

// PARTS: kWeight + 1, or kParts for derivatives.
template <class T, int64_t K, int PARTS>
void weigh_axis(const Line& line, double px, double inverse, double extent, AxisBuffers<T>& room,
                AxisWeights<T>& out) {
  using L = Lanes<T>;
  using V = typename L::V;
  const int64_t first = static_cast<int64_t>(std::ceil(px - extent));
  const int64_t last = static_cast<int64_t>(std::floor(px + extent));
  const int64_t count = last - first + 1, vectors = (count + L::N - 1) / L::N;
  const int64_t stride = (vectors + 1) * L::N;
  T* taps = room.taps.need(kParts * stride);
  const V start = L::set(static_cast<T>(px - static_cast<double>(first))) - L::iota();
  const V scale = L::set(static_cast<T>(inverse)), zero = {};
  V sum[PARTS] = {};
  for (int64_t v = 0; v < vectors; ++v) {
    const V d = start - static_cast<T>(v * L::N);
    const V inside = L::iota() - static_cast<T>(count - v * L::N);  // negative for taps
    V part[kParts];
    kernel<T, K>(scale * d, part[kWeight], part[kSlope]);
    part[kWeight] = inside < 0 ? part[kWeight] : zero;
    part[kSlope] = inside < 0 ? part[kSlope] : zero;
    part[kMoment] = part[kWeight] * d;
    part[kSlopeMoment] = part[kSlope] * d;
    for (int p = 0; p < PARTS; ++p) {
      L::store(taps + p * stride + v * L::N, part[p]);
      sum[p] += part[p];
    }
  }
  for (int p = 0; p < PARTS; ++p) {
    out.sum[p] = L::sum(sum[p]);
    out.part[p] = taps + p * stride;
  }
  out.low = first;
  out.count = count;
  if (first >= 0 && last < line.n) return;

  int64_t low = std::max<int64_t>(first, 0), high = std::min(last, line.n - 1);
  if (line.padding != kZeros) {
    for (int64_t tap = first; tap <= last; ++tap) {
      const int64_t pixel = line.at(tap);
      low = tap == first ? pixel : std::min(low, pixel);
      high = tap == first ? pixel : std::max(high, pixel);
    }
  }
  out.low = low;
  out.count = std::max<int64_t>(0, high - low + 1);
  const int64_t room_for = (out.count + 2 * L::N - 1) / L::N * L::N;
  T* pixels = room.pixels.need(kParts * room_for);
  for (int p = 0; p < PARTS; ++p) {
    T* to = pixels + p * room_for;
    const T* from = taps + p * stride;
    std::memset(to, 0, room_for * sizeof(T));
    if (line.padding == kZeros) {
      if (out.count) std::memcpy(to, from + (low - first), out.count * sizeof(T));
    } else {
      for (int64_t tap = first; tap <= last; ++tap) to[line.at(tap) - low] += from[tap - first];
    }
    out.part[p] = to;
  }
}

// Lays the weights along x out in vectors for lines of `width` >= N stored pixels.
template <class T>
void lay_out(AxisWeights<T>& x, int64_t width, int parts) {
  constexpr int N = Lanes<T>::N;
  x.vectors = static_cast<int>((x.count + N - 1) / N);
  const int64_t begin = (x.vectors - 1) * N;
  const int shift = static_cast<int>(x.low + begin + N - width);
  if (x.vectors == 0 || shift <= 0) return;
  for (int p = 0; p < parts; ++p) {
    T* last = x.part[p] + begin;
    std::memmove(last + shift, last, (N - shift) * sizeof(T));
    std::memset(last, 0, shift * sizeof(T));
  }
}

template <class T>
using WeighAxis = void (*)(const Line&, double, double, double, AxisBuffers<T>&, AxisWeights<T>&);

template <class T, int PARTS>
WeighAxis<T> weigh_axis_of(int64_t kernel) {
  if (kernel == kTent) return weigh_axis<T, kTent, PARTS>;
  if (kernel == kCubic) return weigh_axis<T, kCubic, PARTS>;
  if (kernel == kLanczos3) return weigh_axis<T, kLanczos3, PARTS>;
  return weigh_axis<T, kGaussian, PARTS>;
}

}  // namespace
}  // namespace stn
