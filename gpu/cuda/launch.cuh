#pragma once

#include "gpu/cuda/device.h"

#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

namespace troupe::cuda {

/// As launch(), in clusters of that many blocks; one block is none.
template <class... Parameters, class... Arguments>
void launch_clusters(void (*kernel)(Parameters...), dim3 cluster, dim3 grid, dim3 block,
                     size_t shared_bytes, cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = cluster.x;
  attributes[1].val.clusterDim.y = cluster.y;
  attributes[1].val.clusterDim.z = cluster.z;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = cluster.x * cluster.y * cluster.z > 1 ? 2 : 1;
  TROUPE_CUDA(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
}

/// Launches a kernel that may begin before the one ahead of it in the stream has ended
/// (programmatic dependent launch): it must call wait_for_upstream() before it touches anything
/// another kernel of the step wrote, in every thread.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            cudaStream_t stream, Arguments&&... arguments) {
  launch_clusters(kernel, dim3(1), grid, block, shared_bytes, stream,
                  std::forward<Arguments>(arguments)...);
}

#ifdef __CUDACC__

/// Everything that kernels ahead in the stream wrote is visible after this.
__device__ __forceinline__ void wait_for_upstream() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// The next kernel may begin its prologue.
__device__ __forceinline__ void release_downstream() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Eight bf16 values, one 16-byte access.
struct alignas(16) Bf16x8 {
  __nv_bfloat162 pair[4];
};

/// The load alone: what is loaded before wait_for_upstream() is converted after it, so that nothing
/// waits for it in between.
__device__ __forceinline__ Bf16x8 load_raw(const __nv_bfloat16* from) {
  return *reinterpret_cast<const Bf16x8*>(from);
}

__device__ __forceinline__ void to_floats(float (&v)[8], const Bf16x8& x) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 f = __bfloat1622float2(x.pair[i]);
    v[2 * i] = f.x;
    v[2 * i + 1] = f.y;
  }
}

__device__ __forceinline__ void load8(float (&v)[8], const __nv_bfloat16* from) {
  to_floats(v, load_raw(from));
}

__device__ __forceinline__ void load8(float (&v)[8], const float* from) {
  const float4 a = reinterpret_cast<const float4*>(from)[0];
  const float4 b = reinterpret_cast<const float4*>(from)[1];
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
  v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

__device__ __forceinline__ void store8(__nv_bfloat16* to, const float (&v)[8]) {
  Bf16x8 x;
#pragma unroll
  for (int i = 0; i < 4; ++i) x.pair[i] = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
  *reinterpret_cast<Bf16x8*>(to) = x;
}

/// e4m3 codes of v * inverse_scale, saturating.
__device__ __forceinline__ void store8(uint8_t* to, const float (&v)[8], float inverse_scale) {
  uint64_t codes = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 f = {v[2 * i] * inverse_scale, v[2 * i + 1] * inverse_scale};
    const __nv_fp8x2_storage_t two = __nv_cvt_float2_to_fp8x2(f, __NV_SATFINITE, __NV_E4M3);
    codes |= static_cast<uint64_t>(two) << (16 * i);
  }
  *reinterpret_cast<uint64_t*>(to) = codes;
}

#endif  // __CUDACC__

}  // namespace troupe::cuda
