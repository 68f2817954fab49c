#include "avx2.h"

#include "bilinear.h"

namespace stn {
void run_avx2(Work work, const void* call) { run(work, call); }
}  // namespace stn
