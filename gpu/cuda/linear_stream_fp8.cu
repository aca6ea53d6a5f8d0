#include "gpu/cuda/linear_stream.cuh"

namespace troupe::cuda {

std::span<const StreamKernel> stream_kernels_fp8() {
  using stream::entry;
  constexpr WeightFormat kFormat = WeightFormat::kFp8;
  static const StreamKernel kernels[] = {
      entry<kFormat, 8, 128, 1, 5>(),   entry<kFormat, 16, 128, 1, 5>(),
      entry<kFormat, 16, 64, 2, 5>(),   entry<kFormat, 16, 128, 1, 12>(),
      entry<kFormat, 16, 256, 1, 6>(),  entry<kFormat, 32, 128, 1, 5>(),
      entry<kFormat, 64, 128, 1, 4>(),  entry<kFormat, 64, 256, 1, 5>(),
      entry<kFormat, 128, 128, 1, 6>(),
  };
  return kernels;
}

}  // namespace troupe::cuda
