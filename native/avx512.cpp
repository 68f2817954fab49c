#include "avx512.h"

#include "bilinear.h"

namespace stn {
void run_avx512(Work work, const void* call) { run(work, call); }
}  // namespace stn
