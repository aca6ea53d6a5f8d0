#include "gpu/ops/kernels.h"

namespace troupe::cpu {

const Kernels& kernels(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kPortable: return kPortableKernels;
    case Isa::kAvx2: return kAvx2Kernels;
    case Isa::kAvx512: return kAvx512Kernels;
  }
#endif
  static_cast<void>(isa);
  return kPortableKernels;
}

}  // namespace troupe::cpu
