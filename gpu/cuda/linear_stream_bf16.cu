#include "gpu/cuda/linear_stream.cuh"

namespace troupe::cuda {

std::span<const StreamKernel> stream_kernels_bf16() {
  using stream::entry;
  constexpr WeightFormat kFormat = WeightFormat::kBf16;
  static const StreamKernel kernels[] = {
      entry<kFormat, 8, 16>(),          entry<kFormat, 8, 32>(),
      entry<kFormat, 8, 64>(),          entry<kFormat, 8, 128>(),
      entry<kFormat, 16, 16>(),         entry<kFormat, 16, 32>(),
      entry<kFormat, 16, 64>(),         entry<kFormat, 16, 128>(),
      entry<kFormat, 32, 64>(),         entry<kFormat, 32, 128>(),
      entry<kFormat, 64, 64>(),         entry<kFormat, 64, 128>(),
      entry<kFormat, 8, 32, float>(),   entry<kFormat, 8, 64, float>(),
      entry<kFormat, 16, 32, float>(),  entry<kFormat, 16, 64, float>(),
      entry<kFormat, 32, 64, float>(),  entry<kFormat, 64, 64, float>(),
      entry<kFormat, 64, 128, float>(),
  };
  return kernels;
}

}  // namespace troupe::cuda
