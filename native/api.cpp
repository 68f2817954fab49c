// The C interface: which kernels run a call, and the scalar ones.
#include <algorithm>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "scalar.h"

namespace stn {
namespace {

using ParallelFor = int32_t (*)(int64_t begin, int64_t end, int64_t grain, Job, void*);
ParallelFor torch_parallel_for = nullptr;
int32_t (*torch_threads)(uint32_t* count) = nullptr;  // both return an error code
Level level = kScalar;

Level best_level() {
#ifdef STN_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2")) {
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    return wide ? kAvx512 : kAvx2;
  }
#endif
  return kScalar;
}

constexpr int64_t kPiece = 8192;  // targets whose gradients are summed together

// All rows in pieces: body(places, row, from, to, piece of all).
template <class Body>
void for_pieces(const Call& c, Body&& body) {
  const int64_t pieces = (c.targets() + kPiece - 1) / kPiece;
  for_each_range(c.rows * pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t row = item / pieces, from = item % pieces * kPiece;
      body(Places(c, row), row, from, std::min(from + kPiece, c.targets()), item);
    }
  });
}

template <class T>
void forward(const Call& c) {
  for_pieces(c, [&](const Places& p, int64_t row, int64_t from, int64_t to, int64_t) {
    Scalar<T>::forward(p, row, from, to);
  });
}

template <class T>
void backward_places(const Call& c) {
  const int64_t pieces = (c.targets() + kPiece - 1) / kPiece;
  std::vector<MatrixGradient> sums(c.rows * pieces);
  for_pieces(c, [&](const Places& p, int64_t row, int64_t from, int64_t to, int64_t item) {
    Scalar<T>::backward_places(p, row, from, to, sums[item]);
  });
  if (c.source != kField) write_gradients(c, sums.data(), pieces);
}

template <class T>
void backward_input(const Call& c) {
  const int64_t each = c.rows / c.images;
  int64_t bands = std::max<int64_t>(1, threads() == 1 ? 1 : 2 * threads() / c.images);
  bands = std::min(bands, c.pixels());
  for_each_range(c.images * bands, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t image = item / bands, band = item % bands;
      const int64_t low = c.pixels() * band / bands, high = c.pixels() * (band + 1) / bands;
      T* to = static_cast<T*>(c.grad_input) + image * c.channels * c.pixels();
      for (int64_t k = 0; k < (c.channels_last ? 1 : c.channels); ++k) {
        std::memset(to + k * c.pixels() + low * c.pixel_stride(), 0,
                    (high - low) * c.pixel_stride() * sizeof(T));
      }
      for (int64_t row = image * each; row < (image + 1) * each; ++row) {
        Scalar<T>::backward_input(Places(c, row), row, 0, c.targets(), low, high);
      }
    }
  });
}

bool vectorizes(const Call& c) {
  if (c.mode != kBilinear || c.type == kDouble) return false;
  for (int axis = 0; axis < c.dim; ++axis) {
    if (c.in_axis(axis) < 2) return false;
  }
  return c.pixels() * std::max<int64_t>(1, c.channels_last ? c.channels : 1) < (int64_t{1} << 31);
}

// Asks for large pages under a large new tensor: faults in small ones take longer than its warp.
void expect_writes(void* start, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kPage = 2 << 20;
  const uintptr_t from = (reinterpret_cast<uintptr_t>(start) + kPage - 1) & ~(kPage - 1);
  const uintptr_t to = (reinterpret_cast<uintptr_t>(start) + bytes) & ~(kPage - 1);
  if (to > from + kPage) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
#endif
}

void expect_writes(Work work, const Call& c) {
  const int64_t image = c.channels * c.pixels() * (c.type == kDouble ? 8 : 4);
  const int64_t bytes[] = {4, 8, 2, 2};
  if (work == kForward) {
    expect_writes(c.output, c.rows * c.channels * c.targets() * bytes[c.type]);
  } else if (work == kBackwardInput) {
    expect_writes(c.grad_input, c.images * image);
  } else if (c.source == kField) {
    expect_writes(c.grad_places, c.rows * c.targets() * c.dim * (c.places_double ? 8 : 4));
  }
}

template <class T>
void run(Work work, const Call& c) {
  if (work == kForward) return forward<T>(c);
  if (work == kBackwardPlaces) return backward_places<T>(c);
  backward_input<T>(c);
}

void run(Work work, const Call& c) {
  expect_writes(work, c);
#ifdef STN_X86
  if (vectorizes(c)) {
    if (level == kAvx512) return run_avx512(work, &c);
    if (level == kAvx2) return run_avx2(work, &c);
  }
#endif
  run_scalar(work, &c);
}

}  // namespace

void run_scalar(Work work, const void* call) {
  const Call& c = *static_cast<const Call*>(call);
  c.type == kDouble ? run<double>(work, c) : run<float>(work, c);
}

void parallel(int64_t count, int64_t grain, Job job, void* context) {
  if (count <= 0) return;
  if (count <= grain || !torch_parallel_for) {
    job(0, count, context);
  } else {
    torch_parallel_for(0, count, grain, job, context);
  }
}

int64_t threads() {
  uint32_t count = 1;
  return torch_threads && torch_threads(&count) == 0 ? count : 1;
}

}  // namespace stn

extern "C" {
#define STN_API __attribute__((visibility("default")))

// `most`: 0 scalar, 1 AVX2, 2 AVX-512; returns what will run.
STN_API int64_t stn_start(void* parallel_for, void* get_threads, int64_t most) {
  stn::torch_parallel_for = reinterpret_cast<stn::ParallelFor>(parallel_for);
  stn::torch_threads = reinterpret_cast<int32_t (*)(uint32_t*)>(get_threads);
  stn::level = std::min(static_cast<stn::Level>(most), stn::best_level());
  return stn::level;
}

STN_API int64_t stn_call_bytes() { return sizeof(stn::Call); }

STN_API void stn_forward(const void* call) { stn::run(stn::kForward, *static_cast<const stn::Call*>(call)); }

// Writes all of grad_places.
STN_API void stn_backward_places(const void* call) {
  stn::run(stn::kBackwardPlaces, *static_cast<const stn::Call*>(call));
}

// Writes all of grad_input.
STN_API void stn_backward_input(const void* call) {
  stn::run(stn::kBackwardInput, *static_cast<const stn::Call*>(call));
}
}
