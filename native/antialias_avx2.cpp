#include "antialias_run.h"

namespace stn {
void run_antialias_avx2(Work work, const void* call) { run_antialias(work, call); }
}  // namespace stn
