// The instruction sets, each compiled on its own, and the threads they share.
#pragma once

#include <cstdint>

namespace stn {

enum Level : int64_t { kScalar, kAvx2, kAvx512 };
enum Work : int64_t { kForward, kBackwardPlaces, kBackwardInput };

// Do the work of a `Call`.
void run_scalar(Work work, const void* call);
void run_avx2(Work work, const void* call);
void run_avx512(Work work, const void* call);

// Runs job(begin, end) over pieces of [0, count) of at least `grain`, on torch's own threads.
using Job = void (*)(int64_t begin, int64_t end, void* context);
void parallel(int64_t count, int64_t grain, Job job, void* context);
int64_t threads();

}  // namespace stn
