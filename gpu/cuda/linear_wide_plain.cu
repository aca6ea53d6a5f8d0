#include "gpu/cuda/linear_wide.cuh"

namespace troupe::cuda {
std::span<const WideKernel> wide_kernels() {
  using wide::entry;
  static const WideKernel kAll[] = {
      entry<WeightFormat::kBf16, 256, false>(), entry<WeightFormat::kBf16, 192, false>(),
      entry<WeightFormat::kBf16, 128, false>(), entry<WeightFormat::kFp8, 256, false>(),
      entry<WeightFormat::kFp8, 192, false>(),  entry<WeightFormat::kFp8, 128, false>(),
  };
  return kAll;
}

}  // namespace troupe::cuda
