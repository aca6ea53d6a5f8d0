#include "gpu/cuda/attention_simple.h"
#include "gpu/cuda/device.h"

#include <cuda_fp8.h>

namespace troupe::cuda {
namespace {

constexpr int kWarps = 4;

template <class T>
__device__ float to_float(T x) {
  return static_cast<float>(x);
}

/// Block = (token, head); warp w takes every fourth position; a lane holds kPerLane dimensions.
template <class T, int kHeadDim>
__global__ void simple_kernel(__nv_bfloat16* out, const __nv_bfloat16* q, const T* kv,
                              float k_scale, float v_scale, int n_heads, int n_kv_heads,
                              TokenList tokens, float scale, int window) {
  constexpr int kPerLane = kHeadDim / 32;
  const int i = static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int context = tokens.context[i];
  if (context == 0) return;
  const int64_t token = tokens.token != nullptr ? tokens.token[i] : i;
  const int32_t* slots = tokens.slots.data + tokens.row[i] * tokens.slots.stride;
  const int kv_head = head / (n_heads / n_kv_heads);
  const int64_t slot_stride = int64_t{2} * n_kv_heads * kHeadDim;
  const int64_t at = (token * n_heads + head) * kHeadDim;

  float query[kPerLane];
  float acc[kPerLane] = {};
  for (int d = 0; d < kPerLane; ++d) query[d] = to_float(q[at + d * 32 + lane]) * scale * k_scale;
  float max = -INFINITY;
  float sum = 0;
  const int begin = window > 0 && context > window ? context - window : 0;
  for (int pos = begin + warp; pos < context; pos += kWarps) {
    const T* k = kv + slots[pos] * slot_stride + int64_t{2} * kv_head * kHeadDim;
    float s = 0;
    for (int d = 0; d < kPerLane; ++d) s += query[d] * to_float(k[d * 32 + lane]);
    for (int o = 16; o > 0; o /= 2) s += __shfl_xor_sync(~0U, s, o);
    const float next = fmaxf(max, s);
    const float keep = expf(max - next);
    const float p = expf(s - next);
    max = next;
    sum = sum * keep + p;
    for (int d = 0; d < kPerLane; ++d)
      acc[d] = acc[d] * keep + p * to_float(k[kHeadDim + d * 32 + lane]);
  }

  __shared__ float warp_max[kWarps];
  __shared__ float warp_sum[kWarps];
  __shared__ float warp_acc[kWarps][kHeadDim];
  warp_max[warp] = max;
  warp_sum[warp] = sum;
  for (int d = 0; d < kPerLane; ++d) warp_acc[warp][d * 32 + lane] = acc[d];
  __syncthreads();
  const int d = static_cast<int>(threadIdx.x);
  if (d >= kHeadDim) return;
  float all_max = -INFINITY;
  for (int w = 0; w < kWarps; ++w) all_max = fmaxf(all_max, warp_max[w]);
  float all_sum = 0;
  float value = 0;
  for (int w = 0; w < kWarps; ++w) {
    const float weight = expf(warp_max[w] - all_max);
    all_sum += weight * warp_sum[w];
    value += weight * warp_acc[w][d];
  }
  out[at + d] = __float2bfloat16(value / all_sum * v_scale);
}

template <class T>
void launch(__nv_bfloat16* out, const __nv_bfloat16* q, const KvLayer& kv,
            const AttentionShape& shape, const TokenList& tokens, float scale, int32_t window,
            cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(tokens.n_tokens), static_cast<unsigned>(shape.n_heads));
  auto* const kernel = shape.head_dim == 128 ? &simple_kernel<T, 128> : &simple_kernel<T, 64>;
  const bool fp8 = kv.format == KvFormat::kFp8;
  kernel<<<grid, kWarps * 32, 0, stream>>>(out, q, static_cast<const T*>(kv.data),
                                           fp8 ? kv.k_scale : 1.0F, fp8 ? kv.v_scale : 1.0F,
                                           shape.n_heads, shape.n_kv_heads, tokens, scale, window);
  TROUPE_CUDA(cudaGetLastError());
}

}  // namespace

void simple_attention(__nv_bfloat16* out, const __nv_bfloat16* q, const KvLayer& kv,
                      const AttentionShape& shape, const TokenList& tokens, float scale,
                      int32_t window, cudaStream_t stream) {
  if (tokens.n_tokens == 0) return;
  if (kv.format == KvFormat::kFp8)
    launch<__nv_fp8_e4m3>(out, q, kv, shape, tokens, scale, window, stream);
  else
    launch<__nv_bfloat16>(out, q, kv, shape, tokens, scale, window, stream);
}

}  // namespace troupe::cuda
