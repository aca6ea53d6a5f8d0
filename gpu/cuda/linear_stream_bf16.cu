#include "gpu/cuda/linear_stream.cuh"

namespace troupe::cuda {

std::span<const StreamKernel> stream_kernels_bf16() {
  using stream::entry;
  constexpr WeightFormat kFormat = WeightFormat::kBf16;
  static const StreamKernel kernels[] = {
      entry<kFormat, 8, 1>(),         entry<kFormat, 8, 2>(),
      entry<kFormat, 8, 4>(),         entry<kFormat, 16, 1>(),
      entry<kFormat, 16, 2>(),        entry<kFormat, 16, 4>(),
      entry<kFormat, 32, 1>(),        entry<kFormat, 32, 2>(),
      entry<kFormat, 32, 4>(),        entry<kFormat, 64, 1>(),
      entry<kFormat, 64, 2>(),        entry<kFormat, 8, 1, float>(),
      entry<kFormat, 16, 1, float>(), entry<kFormat, 16, 2, float>(),
      entry<kFormat, 32, 2, float>(), entry<kFormat, 64, 2, float>(),
  };
  return kernels;
}

}  // namespace troupe::cuda
