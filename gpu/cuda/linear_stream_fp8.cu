#include "gpu/cuda/linear_stream.cuh"

namespace troupe::cuda {

std::span<const StreamKernel> stream_kernels_fp8() {
  using stream::entry;
  constexpr WeightFormat kFormat = WeightFormat::kFp8;
  static const StreamKernel kernels[] = {
      entry<kFormat, 8, 16>(),   entry<kFormat, 8, 32>(),   entry<kFormat, 8, 64>(),
      entry<kFormat, 8, 128>(),  entry<kFormat, 16, 16>(),  entry<kFormat, 16, 32>(),
      entry<kFormat, 16, 64>(),  entry<kFormat, 16, 128>(), entry<kFormat, 32, 64>(),
      entry<kFormat, 32, 128>(), entry<kFormat, 64, 64>(),  entry<kFormat, 64, 128>(),
  };
  return kernels;
}

}  // namespace troupe::cuda
