// All rows of a call, line of targets by line of targets, in parallel.
#pragma once

#include "antialias_turned.h"
#include "antialias_upright.h"

namespace stn {
namespace {

// The images with lines long enough for vectors: as they are, or in a copy.
template <class T>
struct Padded {
  Buffer<T> copy;
  T* data;
  int64_t width, channel, lines;

  Padded(const Antialias& c, void* from, bool read) {
    width = std::max<int64_t>(c.in[2], Lanes<T>::N);
    lines = c.images * c.channels * c.in[0] * c.in[1];
    channel = c.in[0] * c.in[1] * width;
    data = static_cast<T*>(from);
    if (width == c.in[2]) return;
    data = copy.need(lines * width);
    std::memset(data, 0, lines * width * sizeof(T));
    if (read) move(c, static_cast<T*>(from), c.in[2], data, width);
  }
  void write(const Antialias& c, void* to) const {
    if (width != c.in[2]) move(c, data, width, static_cast<T*>(to), c.in[2]);
  }
  void move(const Antialias& c, const T* from, int64_t from_width, T* to, int64_t to_width) const {
    for (int64_t n = 0; n < lines; ++n) {
      std::memcpy(to + n * to_width, from + n * from_width, c.in[2] * sizeof(T));
    }
  }
  Image<T> image(const Antialias& c, int64_t row) const {
    return {data + c.image_of(row) * c.channels * channel, width, channel};
  }
};

// What one thread knows of the row at hand.
template <class T, int64_t K, int DIM>
struct Worker {
  static constexpr double kSlack = sizeof(T) == 8 ? 1e-13 : 2e-6;

  const Antialias& c;
  Box<T> box;
  Turned<T, K, DIM> turned;
  Upright<T> upright;
  Shape shape;
  int64_t row = -1;
  bool aligned = false;
  double moves[3], px[3];

  explicit Worker(const Antialias& call)
      : c(call), box(call), turned(call), upright(call, box) {}

  void set_row(int64_t own, int64_t width, int parts) {
    if (row == own) return;
    row = own;
    if (!c.constant) return;
    const double* places = c.px + row * c.targets() * DIM;
    shape = Shape(c.inverse + row * DIM * DIM, DIM, kSupport<K>, kSlack);
    aligned = shape.separable && Upright<T>::fits(c, places) &&
              upright.set_row(shape, places, width, parts);
  }

  // False where the target reads nothing.
  bool set_target(int64_t target) {
    const double* places = c.px + (row * c.targets() + target) * DIM;
    if (!c.constant) {
      shape = Shape(c.inverse + (row * c.targets() + target) * DIM * DIM, DIM, kSupport<K>, kSlack);
    }
    for (int a = 0; a < DIM; ++a) {
      if (!std::isfinite(places[a])) return false;
      px[a] = box.line[a].fold(places[a], shape.reach[a], moves[a]);
    }
    return turned.meets(shape, px);
  }

  bool set_line(int64_t line, int parts) {
    const double* places = c.px + (row * c.targets() + line * c.out[2]) * DIM;
    return upright.set_line(shape, places, parts, moves);
  }
};

// body(worker, row, line) over all lines of targets.
template <class T, int64_t K, int DIM, class F>
void each_line(const Antialias& c, F&& body) {
  for_each_range(c.rows * c.lines(), 1, [&](int64_t begin, int64_t end) {
    Worker<T, K, DIM> worker(c);
    for (int64_t item = begin; item < end; ++item) body(worker, item / c.lines(), item % c.lines());
  });
}

template <class T, int64_t K, int DIM>
void forward(const Antialias& c) {
  const Padded<T> images(c, const_cast<void*>(c.input), true);
  const int64_t step = c.targets();
  each_line<T, K, DIM>(c, [&](Worker<T, K, DIM>& own, int64_t row, int64_t line) {
    own.set_row(row, images.width, kWeight + 1);
    const Image<T> image = images.image(c, row);
    const int64_t first = line * c.out[2];
    T* out = static_cast<T*>(c.output) + row * c.channels * step + first;
    if (own.aligned && own.set_line(line, kWeight + 1)) {
      own.upright.forward(image, out, step);
      return;
    }
    for (int64_t t = 0; t < c.out[2]; ++t) {
      const bool reads = !own.aligned && own.set_target(first + t);
      if (reads && !own.shape.separable) {
        own.turned.forward(own.shape, own.px, image, out + t, step);
      } else if (reads && own.box.place(own.shape, own.px, images.width, kWeight + 1)) {
        own.box.forward(image, out + t, step);
      } else {
        for (int64_t k = 0; k < c.channels; ++k) out[t + k * step] = 0;
      }
    }
  });
}

template <class T, int64_t K, int DIM>
void backward_places(const Antialias& c) {
  const Padded<T> images(c, const_cast<void*>(c.input), true);
  const int64_t step = c.targets(), many = DIM * DIM;
  // Of constant footprints the sums over each line of targets.
  Buffer<double> room;
  double* by_line = c.constant ? room.need(c.rows * c.lines() * many) : nullptr;
  if (by_line) std::memset(by_line, 0, sizeof(double) * c.rows * c.lines() * many);
  each_line<T, K, DIM>(c, [&](Worker<T, K, DIM>& own, int64_t row, int64_t line) {
    own.set_row(row, images.width, kParts);
    const Image<T> image = images.image(c, row);
    const int64_t first = line * c.out[2], place = row * step + first;
    const T* grad = static_cast<const T*>(c.grad_output) + row * c.channels * step + first;
    const double* together = nullptr;
    if (own.aligned && own.set_line(line, kParts)) {
      together = own.upright.backward_places(image, grad, step);
    }
    for (int64_t t = 0; t < c.out[2]; ++t) {
      double slope[12] = {};
      double* grad_px = c.grad_px + (place + t) * DIM;
      double* grad_inverse = by_line ? by_line + (row * c.lines() + line) * many
                                     : c.grad_inverse + (place + t) * many;
      if (!by_line) std::memset(grad_inverse, 0, sizeof(double) * many);
      const bool reads = !own.aligned && own.set_target(first + t);
      if (together) {
        std::memcpy(slope, together + t * 12, sizeof(slope));
        const double x = c.px[(place + t) * DIM];
        own.box.line[0].fold(x, own.shape.reach[0], own.moves[0]);
      } else if (reads && !own.shape.separable) {
        c.total[place + t] =
            own.turned.backward_places(own.shape, own.px, image, grad + t, step, slope);
      } else if (reads && own.box.place(own.shape, own.px, images.width, kParts)) {
        own.box.backward_places(image, grad + t, step, slope);
      } else {
        std::memset(grad_px, 0, sizeof(double) * DIM);
        continue;
      }
      own.box.entries.write(own.shape, slope, own.moves, grad_px, grad_inverse);
    }
  });
  if (!by_line) return;
  for (int64_t row = 0; row < c.rows; ++row) {
    double* to = c.grad_inverse + row * many;
    std::memset(to, 0, sizeof(double) * many);
    for (int64_t line = 0; line < c.lines(); ++line) {
      for (int64_t e = 0; e < many; ++e) to[e] += by_line[(row * c.lines() + line) * many + e];
    }
  }
}

template <class T, int64_t K, int DIM>
void backward_input(const Antialias& c) {
  const Padded<T> images(c, c.grad_input, false);
  const int64_t step = c.targets(), each = c.rows / c.images, lines = c.in[0] * c.in[1];
  int64_t bands = threads() == 1 ? 1 : std::max<int64_t>(1, 2 * threads() / c.images);
  bands = std::min(bands, lines);
  // Each pixel belongs to one band, and gathers its targets in their order.
  for_each_range(c.images * bands, 1, [&](int64_t begin, int64_t end) {
    Worker<T, K, DIM> own(c);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t at = item / bands, band = item % bands;
      const int64_t low = lines * band / bands, high = lines * (band + 1) / bands;
      const Image<T> image = images.image(c, at * each);
      for (int64_t k = 0; k < c.channels; ++k) {
        std::memset(image.data + k * image.channel + low * image.width, 0,
                    (high - low) * image.width * sizeof(T));
      }
      for (int64_t row = at * each; row < (at + 1) * each; ++row) {
        own.set_row(row, images.width, kWeight + 1);
        const T* grads = static_cast<const T*>(c.grad_output) + row * c.channels * step;
        for (int64_t target = 0; target < step; ++target) {
          const T* grad = grads + target;
          if (own.aligned) {
            if (own.set_line(target / c.out[2], kWeight + 1)) {
              own.upright.spread(image, grad, step, low, high);
            }
            target += c.out[2] - 1;
          } else if (own.set_target(target)) {
            if (!own.shape.separable) {
              own.turned.spread(own.shape, own.px, image, grad, step,
                                c.total[row * step + target], low, high);
            } else if (own.box.place(own.shape, own.px, images.width, kWeight + 1)) {
              own.box.spread(image, grad, step, low, high);
            }
          }
        }
      }
    }
  });
  images.write(c, c.grad_input);
}

template <class T, int64_t K, int DIM>
void run_as(Work work, const Antialias& c) {
  if (work == kForward) return forward<T, K, DIM>(c);
  if (work == kBackwardPlaces) return backward_places<T, K, DIM>(c);
  backward_input<T, K, DIM>(c);
}

template <class T, int DIM>
void run_as(Work work, const Antialias& c) {
  if (c.kernel == kTent) return run_as<T, kTent, DIM>(work, c);
  if (c.kernel == kCubic) return run_as<T, kCubic, DIM>(work, c);
  if (c.kernel == kLanczos3) return run_as<T, kLanczos3, DIM>(work, c);
  run_as<T, kGaussian, DIM>(work, c);
}

void run_antialias(Work work, const void* call) {
  const Antialias& c = *static_cast<const Antialias*>(call);
  if (c.is_double) return c.dim == 2 ? run_as<double, 2>(work, c) : run_as<double, 3>(work, c);
  c.dim == 2 ? run_as<float, 2>(work, c) : run_as<float, 3>(work, c);
}

}  // namespace
}  // namespace stn
