#include "gpu/cuda/device.h"
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/linear.h"
#include "gpu/cuda/quantize.h"

#include <cuda_fp16.h>
#include <cuda_fp8.h>

namespace troupe::cuda {
namespace {

constexpr float kLargestE4m3 = 448.0F;
constexpr int kVector = 8;  // bf16 values of one 16-byte load

__device__ float largest_of_block(float value) {
  __shared__ float warp_largest[32];
  for (int delta = 16; delta > 0; delta /= 2) {
    value = fmaxf(value, __shfl_xor_sync(~0U, value, delta));
  }
  if (threadIdx.x % 32 == 0) warp_largest[threadIdx.x / 32] = value;
  __syncthreads();
  value = threadIdx.x % 32 < blockDim.x / 32 ? warp_largest[threadIdx.x % 32] : 0.0F;
  for (int delta = 16; delta > 0; delta /= 2) {
    value = fmaxf(value, __shfl_xor_sync(~0U, value, delta));
  }
  return value;
}

__device__ uint64_t encode8(const Bf16x8& v, float inverse) {
  uint64_t codes = 0;
  for (int i = 0; i < 4; ++i) {
    float2 f = __bfloat1622float2(v.pair[i]);
    f.x *= inverse;
    f.y *= inverse;
    const __nv_fp8x2_storage_t two = __nv_cvt_float2_to_fp8x2(f, __NV_SATFINITE, __NV_E4M3);
    codes |= static_cast<uint64_t>(two) << (16 * i);
  }
  return codes;
}

__device__ float largest_of(const Bf16x8& v) {
  float largest = 0.0F;
  for (const __nv_bfloat162 p : v.pair) {
    const float2 f = __bfloat1622float2(p);
    largest = fmaxf(largest, fmaxf(fabsf(f.x), fabsf(f.y)));
  }
  return largest;
}

/// One block a row. A thread holds its first kHeld vectors in registers and reads longer rows'
/// others again.
template <int kHeld>
__global__ void quantize_kernel(uint8_t* codes, float* scale, const __nv_bfloat16* x,
                                int64_t cols) {
  release_downstream();
  wait_for_upstream();
  const int64_t row = blockIdx.x;
  const auto* in = reinterpret_cast<const Bf16x8*>(x + row * cols);
  auto* out = reinterpret_cast<uint64_t*>(codes + row * cols);
  const int64_t n = cols / kVector;
  const int64_t beyond = int64_t{threadIdx.x} + kHeld * int64_t{blockDim.x};
  Bf16x8 held[kHeld] = {};
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    const int64_t i = threadIdx.x + j * int64_t{blockDim.x};
    if (i < n) held[j] = in[i];
  }
  float largest = 0.0F;
#pragma unroll
  for (const Bf16x8& v : held) largest = fmaxf(largest, largest_of(v));
  for (int64_t i = beyond; i < n; i += blockDim.x) largest = fmaxf(largest, largest_of(in[i]));
  largest = largest_of_block(largest);
  const float row_scale = largest > 0.0F ? largest / kLargestE4m3 : 1.0F;
  if (threadIdx.x == 0) scale[row] = row_scale;
  const float inverse = 1.0F / row_scale;
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    const int64_t i = threadIdx.x + j * int64_t{blockDim.x};
    if (i < n) out[i] = encode8(held[j], inverse);
  }
  for (int64_t i = beyond; i < n; i += blockDim.x) out[i] = encode8(in[i], inverse);
}

void launch_quantize(uint8_t* codes, float* scale, const __nv_bfloat16* x, int64_t rows,
                     int64_t cols, cudaStream_t stream) {
  if (rows == 0 || cols == 0) return;
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(rows));
  // A row alone wants many threads; of many rows small blocks, so that some load while others
  // reduce.
  constexpr int64_t kManyRows = 512;
  const bool many = rows >= kManyRows;
  const bool is_long = many && cols > 128 * 4 * kVector;
  config.blockDim = dim3(is_long ? 256 : many || cols < 4096 ? 128 : 512);
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  TROUPE_CUDA(cudaLaunchKernelEx(&config, is_long ? &quantize_kernel<8> : &quantize_kernel<4>,
                                 codes, scale, x, cols));
}

__global__ void expand_kernel(__nv_bfloat16* out, const uint8_t* codes, const float* scale,
                              int64_t cols) {
  const int64_t row = blockIdx.x;
  const float row_scale = scale[row];
  for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) {
    __nv_fp8_e4m3 code;
    code.__x = codes[row * cols + i];
    out[row * cols + i] = __float2bfloat16_rn(static_cast<float>(code) * row_scale);
  }
}

template <class T>
__global__ void convert_kernel(__nv_bfloat16* out, const T* in, int64_t n) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += stride) {
    out[i] = __float2bfloat16_rn(static_cast<float>(in[i]));
  }
}

__global__ void fill_kernel(__nv_bfloat16* out, int64_t n, float value) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += stride) {
    out[i] = __float2bfloat16_rn(value);
  }
}

/// SplitMix64's finaliser: every bit of the result depends on every bit of the argument.
__device__ uint64_t mix(uint64_t z) {
  z += 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

/// Pairs of values by Box and Muller.
__global__ void normal_kernel(__nv_bfloat16* out, int64_t n, float std, uint64_t seed) {
  const uint64_t key = mix(seed);
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; 2 * i < n; i += stride) {
    const uint64_t bits = mix(key + static_cast<uint64_t>(i));
    const float u = (static_cast<float>(static_cast<uint32_t>(bits)) + 1.0F) * 0x1p-32F;
    const float angle = static_cast<float>(static_cast<uint32_t>(bits >> 32)) * 0x1p-31F;
    const float radius = std * sqrtf(-2.0F * __logf(fminf(u, 1.0F)));
    float sine = 0.0F;
    float cosine = 0.0F;
    sincospif(angle, &sine, &cosine);
    out[2 * i] = __float2bfloat16_rn(radius * cosine);
    if (2 * i + 1 < n) out[2 * i + 1] = __float2bfloat16_rn(radius * sine);
  }
}

constexpr int kThreads = 256;
unsigned blocks_for(int64_t n) {
  const int64_t blocks = (n + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < 4096 ? blocks : 4096);
}

}  // namespace

void quantize_rows(uint8_t* codes, float* scale, const __nv_bfloat16* x, int32_t n_tokens,
                   int32_t cols, cudaStream_t stream) {
  launch_quantize(codes, scale, x, n_tokens, cols, stream);
}

void quantize_weights(uint8_t* codes, float* scale, const __nv_bfloat16* w, int64_t rows,
                      int64_t cols, cudaStream_t stream) {
  launch_quantize(codes, scale, w, rows, cols, stream);
}

void expand_weights(__nv_bfloat16* out, const uint8_t* codes, const float* scale, int64_t rows,
                    int64_t cols, cudaStream_t stream) {
  if (rows == 0 || cols == 0) return;
  expand_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(out, codes, scale, cols);
  TROUPE_CUDA(cudaGetLastError());
}

void to_bf16(__nv_bfloat16* out, const float* in, int64_t n, cudaStream_t stream) {
  if (n == 0) return;
  convert_kernel<<<blocks_for(n), kThreads, 0, stream>>>(out, in, n);
  TROUPE_CUDA(cudaGetLastError());
}

void to_bf16_from_f16(__nv_bfloat16* out, const void* in, int64_t n, cudaStream_t stream) {
  if (n == 0) return;
  convert_kernel<<<blocks_for(n), kThreads, 0, stream>>>(out, static_cast<const __half*>(in), n);
  TROUPE_CUDA(cudaGetLastError());
}

void fill_normal(__nv_bfloat16* out, int64_t n, float std, uint64_t seed, cudaStream_t stream) {
  if (n == 0) return;
  normal_kernel<<<blocks_for(n / 2 + 1), kThreads, 0, stream>>>(out, n, std, seed);
  TROUPE_CUDA(cudaGetLastError());
}

void fill(__nv_bfloat16* out, int64_t n, float value, cudaStream_t stream) {
  if (n == 0) return;
  fill_kernel<<<blocks_for(n), kThreads, 0, stream>>>(out, n, value);
  TROUPE_CUDA(cudaGetLastError());
}

}  // namespace troupe::cuda
