#include "gpu/cuda/linear_wide.cuh"

namespace troupe::cuda {
std::span<const WideKernel> wide_kernels_gated() {
  using wide::entry;
  static const WideKernel kAll[] = {
      entry<WeightFormat::kBf16, 256, true>(), entry<WeightFormat::kBf16, 224, true>(),
      entry<WeightFormat::kBf16, 192, true>(), entry<WeightFormat::kFp8, 256, true>(),
      entry<WeightFormat::kFp8, 224, true>(),  entry<WeightFormat::kFp8, 192, true>(),
  };
  return kAll;
}

}  // namespace troupe::cuda
