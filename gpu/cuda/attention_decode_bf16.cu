#include "gpu/cuda/attention_decode_kernel.cuh"

namespace troupe::cuda::decode {

Kernel kernel_bf16(int32_t head_dim, int32_t group) {
  return choose_kernel<__nv_bfloat16>(head_dim, group);
}

}  // namespace troupe::cuda::decode
