// The bilinear kernels of one instruction set: who does what, on how many threads.
//
// How work is cut never depends on the number of threads where it could change a sum: each output
// and each pixel's gradient is made by one thread in the order of the targets, and what is summed
// over targets is summed over pieces of fixed size.
#pragma once

#include <memory>
#include <new>
#include <numeric>
#include <vector>

#include "packed.h"
#include "planar.h"

namespace stn {
namespace {

constexpr int64_t kGrain = 4096;   // outputs times channels worth a thread
constexpr int64_t kPieces = 64;    // tiles whose gradients are summed together, at least
constexpr int64_t kMostPieces = 256;

constexpr int64_t kPackedBytes = 4 << 20;  // of kPack channels
constexpr int64_t kMarginBytes = 256 << 10;
constexpr int64_t kPartBytes = 320 << 10;
constexpr int64_t kAligned = 64;

// How a call's images are read: as they are, or in a scratch, whose frame may have a margin. A
// packed scratch holds some channels at a time, as many as stay in the cache. By shapes alone.
struct Layout {
  bool packed, scratch, margin;
  int64_t part;  // channels at a time

  explicit Layout(const Call& c)
      : packed(c.channels_last), scratch(false), margin(false), part(c.channels) {
    if (packed) return;
    const bool zeros = c.padding == kZeros;
    const int64_t bytes = Frame(c, zeros).count * 4;
    const bool pays = 8 * c.targets() * (c.rows / c.images) >= c.pixels();
    packed = pays && c.channels >= N && kPack * bytes <= kPackedBytes;
    scratch = packed || (pays && zeros && c.channels * bytes <= kMarginBytes);
    margin = scratch && zeros;
    if (packed) part = std::min(c.channels, std::max<int64_t>(1, kPartBytes / bytes / kPack) * kPack);
  }
  int64_t parts(const Call& c) const { return (c.channels + part - 1) / part; }
  Part at(const Call& c, int64_t k) const {
    return {k * part, std::min(part, c.channels - k * part)};
  }
  // Planes of a scratch, and how many floats a pixel takes in each.
  int64_t planes() const { return packed ? (part + kPack - 1) / kPack : part; }
  int64_t pitch() const { return packed ? kPack : 1; }
};

// Room of a thread's own, which it keeps: new pages cost more than what is done in them.
inline float* scratch(int64_t floats) {
  struct Free {
    void operator()(float* at) const { ::operator delete(at, std::align_val_t{kAligned}); }
  };
  thread_local std::unique_ptr<float[], Free> kept;
  thread_local int64_t size = 0;
  if (size < floats) {
    const std::size_t bytes = floats * sizeof(float);
    kept.reset(static_cast<float*>(::operator new(bytes, std::align_val_t{kAligned})));
    size = floats;
  }
  return kept.get();
}

// The images of a call in their layout, one at a time in a scratch.
class Images {
 public:
  Images(const Call& c, const Layout& layout)
      : c_(c), layout_(layout), frame_(c, layout.margin) {
    if (!layout.scratch) return;
    floats_ = frame_.count * layout.planes() * layout.pitch();
    scratch_ = scratch(floats_);
  }

  const float* of(int64_t row, const Part& part) {
    const float* image = Scalar<float>::image(c_, row);
    if (!layout_.scratch) return image;
    if (held_ < 0 && layout_.margin) {
      for (int64_t k = 0; k < layout_.planes(); ++k) {
        clear_margin(c_, frame_, layout_.pitch(), scratch_ + k * frame_.count * layout_.pitch());
      }
    }
    if (held_ != c_.image_of(row) || held_part_ != part.first) {
      layout_.packed
          ? pack_image(c_, frame_, part, image, scratch_)
          : add_margin(c_, frame_, image, scratch_);
    }
    held_ = c_.image_of(row);
    held_part_ = part.first;
    return scratch_;
  }

  // Where the gradient of slices [low, high) of an image is summed up, zero; and its end.
  float* begin(int64_t image, int64_t low, int64_t high) {
    float* to = gradient(image);
    if (!layout_.scratch) {
      const int64_t slice = frame_.slice(c_), planes = layout_.packed ? 1 : c_.channels;
      const int64_t floats = layout_.packed ? c_.channels : 1;
      for (int64_t k = 0; k < planes; ++k) {
        std::memset(to + k * c_.pixels() + low * slice * floats, 0,
                    (high - low) * slice * floats * sizeof(float));
      }
      return to;
    }
    std::memset(scratch_, 0, floats_ * sizeof(float));
    return scratch_;
  }
  void end(int64_t image, const Part& part, int64_t low, int64_t high) {
    if (!layout_.scratch) return;
    layout_.packed ? unpack_image(c_, frame_, part, scratch_, gradient(image), low, high)
                   : take_margin(c_, frame_, scratch_, gradient(image), low, high);
  }

 private:
  float* gradient(int64_t image) const {
    return static_cast<float*>(c_.grad_input) + image * c_.channels * c_.pixels();
  }

  const Call& c_;
  const Layout layout_;
  const Frame frame_;
  float* scratch_ = nullptr;
  int64_t floats_ = 0, held_ = -1, held_part_ = 0;
};

// body(kernel, images) with the kernel of the layout.
template <int DIM, bool FOLD, int64_t TYPE, class Body>
void with_kernel(const Call& c, const Layout& layout, Body&& body) {
  Images images(c, layout);
  if (c.channels_last) {
    Packed<DIM, FOLD, TYPE, true> kernel(c, layout.margin);
    body(kernel, images);
  } else if (layout.packed) {
    Packed<DIM, FOLD, TYPE, false> kernel(c, layout.margin);
    body(kernel, images);
  } else {
    Planar<DIM, FOLD, TYPE> kernel(c, layout.margin);
    body(kernel, images);
  }
}

template <int DIM, bool FOLD, int64_t TYPE>
void forward(const Call& c) {
  const Tiles tiles(c);
  const Layout layout(c);
  const int64_t grain = std::max<int64_t>(1, kGrain / kTile / c.channels);
  for_each_range(c.rows * tiles.count, grain, [&](int64_t begin, int64_t end) {
    with_kernel<DIM, FOLD, TYPE>(c, layout, [&](auto& kernel, Images& images) {
      while (begin < end) {
        const int64_t row = begin / tiles.count, first = row * tiles.count;
        const int64_t stop = std::min(end, first + tiles.count);
        const Places p(c, row);
        kernel.affine.row = nullptr;
        for (int64_t k = 0; k < layout.parts(c); ++k) {
          const Part part = layout.at(c, k);
          kernel.forward(p, row, part, begin - first, stop - first, images.of(row, part));
        }
        begin = stop;
      }
    });
  });
}

template <int DIM, bool FOLD, int64_t TYPE>
void backward_places(const Call& c) {
  const Tiles tiles(c);
  const Layout layout(c);
  const int64_t piece = std::max(kPieces, (tiles.count + kMostPieces - 1) / kMostPieces);
  const int64_t pieces = (tiles.count + piece - 1) / piece;
  std::vector<MatrixGradient> sums(c.source == kField ? 0 : c.rows * pieces);
  const int64_t work = std::min(piece, tiles.count) * kTile * c.channels;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(work, 1));
  for_each_range(c.rows * pieces, grain, [&](int64_t begin, int64_t end) {
    with_kernel<DIM, FOLD, TYPE>(c, layout, [&](auto& kernel, Images& images) {
      while (begin < end) {
        const int64_t row = begin / pieces, stop = std::min(end, (row + 1) * pieces);
        const Places p(c, row);
        kernel.affine.row = nullptr;
        for (int64_t k = 0; k < layout.parts(c); ++k) {
          const Part part = layout.at(c, k);
          const float* image = images.of(row, part);
          for (int64_t item = begin; item < stop; ++item) {
            const int64_t from = item % pieces * piece;
            MatrixGradient none;
            kernel.backward_places(p, row, part, from, std::min(from + piece, tiles.count), image,
                                   sums.empty() ? none : sums[item]);
          }
        }
        begin = stop;
      }
    });
  });
  if (!sums.empty()) write_gradients(c, sums.data(), pieces);
}

template <int DIM, bool FOLD, int64_t TYPE>
void backward_input(const Call& c) {
  const Layout layout(c);
  const int64_t slices = c.in[3 - DIM];  // cut along y, in 3-D along z
  const int64_t each = c.rows / c.images;
  // As few bands as give every thread as much: each looks at all tiles.
  int64_t bands = c.images >= 8 * threads() ? 1 : threads() / std::gcd(threads(), c.images);
  bands = std::min(bands, std::max<int64_t>(1, slices / 8));
  for_each_range(c.images * bands, 1, [&](int64_t begin, int64_t end) {
    with_kernel<DIM, FOLD, TYPE>(c, layout, [&](auto& kernel, Images& images) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t image = item / bands, band = item % bands;
        const int64_t low = slices * band / bands, high = slices * (band + 1) / bands;
        for (int64_t k = 0; k < layout.parts(c); ++k) {
          const Part part = layout.at(c, k);
          float* to = images.begin(image, low, high);
          for (int64_t row = image * each; row < (image + 1) * each; ++row) {
            const Places p(c, row);
            kernel.affine.row = nullptr;
            kernel.backward_input(p, row, part, low, high, bands == 1, to);
          }
          images.end(image, part, low, high);
        }
      }
    });
  });
}

template <int DIM, bool FOLD, int64_t TYPE>
void run(Work work, const Call& c) {
  if (work == kForward) return forward<DIM, FOLD, TYPE>(c);
  if (work == kBackwardPlaces) return backward_places<DIM, FOLD, TYPE>(c);
  backward_input<DIM, FOLD, TYPE>(c);
}

template <int DIM, bool FOLD>
void run(Work work, const Call& c) {
  if (c.type == kHalf) return run<DIM, FOLD, kHalf>(work, c);
  if (c.type == kBFloat16) return run<DIM, FOLD, kBFloat16>(work, c);
  run<DIM, FOLD, kFloat>(work, c);
}

inline void run(Work work, const void* call) {
  const Call& c = *static_cast<const Call*>(call);
  const bool fold = c.padding != kZeros;
  if (c.dim == 2) return fold ? run<2, true>(work, c) : run<2, false>(work, c);
  fold ? run<3, true>(work, c) : run<3, false>(work, c);
}

}  // namespace
}  // namespace stn
