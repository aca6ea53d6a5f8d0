#include "gpu/device/isa.h"

namespace troupe {

Isa detect_isa() {
#if defined(__x86_64__)
  // Every processor with AVX2 has F16C; clang 14 does not know how to ask.
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::kPortable;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return Isa::kAvx512;
  return Isa::kAvx2;
#else
  return Isa::kPortable;
#endif
}

}  // namespace troupe
