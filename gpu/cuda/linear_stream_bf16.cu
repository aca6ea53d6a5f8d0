#include "gpu/cuda/linear_stream.cuh"

namespace troupe::cuda {

std::span<const StreamKernel> stream_kernels_bf16() {
  using stream::entry;
  constexpr WeightFormat kFormat = WeightFormat::kBf16;
  static const StreamKernel kernels[] = {
      entry<kFormat, 8, 64, 9>(),          entry<kFormat, 16, 64, 9>(),
      entry<kFormat, 16, 64, 8>(),         entry<kFormat, 16, 64, 18>(),
      entry<kFormat, 16, 128, 5>(),        entry<kFormat, 32, 64, 7>(),
      entry<kFormat, 32, 128, 4>(),        entry<kFormat, 64, 128, 7>(),
      entry<kFormat, 64, 64, 5>(),         entry<kFormat, 8, 64, 9, float>(),
      entry<kFormat, 16, 64, 9, float>(),  entry<kFormat, 32, 64, 7, float>(),
      entry<kFormat, 64, 128, 7, float>(),
  };
  return kernels;
}

}  // namespace troupe::cuda
