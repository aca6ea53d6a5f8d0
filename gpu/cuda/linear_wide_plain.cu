#include "gpu/cuda/linear_wide.cuh"

namespace troupe::cuda {
namespace {

template <WeightFormat F, int kN>
WideKernel entry() {
  return {kN, F, reinterpret_cast<const void*>(&wide::multiply<F, kN, false>),
          wide::Layout<kN, false>::kSharedBytes};
}

}  // namespace

std::span<const WideKernel> wide_kernels() {
  static const WideKernel kAll[] = {
      entry<WeightFormat::kBf16, 256>(), entry<WeightFormat::kBf16, 192>(),
      entry<WeightFormat::kBf16, 128>(), entry<WeightFormat::kFp8, 256>(),
      entry<WeightFormat::kFp8, 192>(),  entry<WeightFormat::kFp8, 128>(),
  };
  return kAll;
}

}  // namespace troupe::cuda
