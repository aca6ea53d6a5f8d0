#include "gpu/base/check.h"
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/rms_norm_rows.h"

/// A row stays in the registers of one warp from its load to its store, packed as bf16: warps do
/// not wait for each other, so that loads, sums and stores of different rows overlap.
namespace troupe::cuda {
namespace {

constexpr float kLargestE4m3 = 448.0F;
constexpr int kThreads = 128;
constexpr int kBlocks = 4;    // of a multiprocessor
constexpr int kTogether = 4;  // vectors of a lane that are loaded before the first is used

struct NormJob {
  ActivationOut out;
  __nv_bfloat16* residual;
  Product x;
  const __nv_bfloat16* bias;
  const __nv_bfloat16* weight;
  int32_t n_tokens;
  float eps;
};

template <class Op>
__device__ __forceinline__ float reduce_warp(float value, Op op) {
#pragma unroll
  for (int delta = 16; delta > 0; delta /= 2) value = op(value, __shfl_xor_sync(~0U, value, delta));
  return value;
}

__device__ __forceinline__ Bf16x8 pack(const float (&v)[8]) {
  Bf16x8 out;
#pragma unroll
  for (int i = 0; i < 4; ++i) out.pair[i] = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
  return out;
}

/// kVectors * 256 columns; vector j of a lane is at (j * 32 + lane) * 8.
template <int kVectors>
__global__ void __launch_bounds__(kThreads, kBlocks)
    add_rms_norm_rows_kernel(const __grid_constant__ NormJob job) {
  static_assert(kVectors % kTogether == 0 || kVectors % 2 == 0);
  constexpr int kLoads = kVectors % kTogether == 0 ? kTogether : 2;
  constexpr int64_t kHidden = int64_t{kVectors} * 256;
  release_downstream();
  wait_for_upstream();
  const int64_t row = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  if (row >= job.n_tokens) return;
  const auto lane_at = static_cast<int32_t>(threadIdx.x % 32) * 8;
  const float token_scale = job.x.token_scale != nullptr ? job.x.token_scale[row] : 1.0F;
  __nv_bfloat16* const sum = job.residual + row * kHidden + lane_at;
  const __nv_bfloat16* const add = job.x.data + row * kHidden + lane_at;
  Bf16x8 packed[kVectors];
  float squares = 0.0F;
#pragma unroll
  for (int first = 0; first < kVectors; first += kLoads) {
    Bf16x8 more[kLoads] = {};
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      packed[first + j] = load_raw(sum + (first + j) * 256);
      if (job.x.data != nullptr) more[j] = load_raw(add + (first + j) * 256);
    }
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int32_t at = (first + j) * 256 + lane_at;
      float v[8];
      to_floats(v, packed[first + j]);
      if (job.x.data != nullptr) {
        float a[8];
        to_floats(a, more[j]);
        if (job.x.channel_scale != nullptr) {
          float channel[8];
          load8(channel, job.x.channel_scale + at);
#pragma unroll
          for (int i = 0; i < 8; ++i) a[i] *= token_scale * channel[i];
        }
        if (job.bias != nullptr) {
          float b[8];
          load8(b, job.bias + at);
#pragma unroll
          for (int i = 0; i < 8; ++i) a[i] += b[i];
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] += a[i];
        // The norm sees what the next layer will read back.
        packed[first + j] = pack(v);
        *reinterpret_cast<Bf16x8*>(sum + (first + j) * 256) = packed[first + j];
        to_floats(v, packed[first + j]);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) squares += v[i] * v[i];
    }
  }
  squares = reduce_warp(squares, [](float a, float b) { return a + b; });
  const float factor = rsqrtf(squares / static_cast<float>(kHidden) + job.eps);
  const auto normed = [&](float(&v)[8], int j) {
    float gain[8];
    load8(gain, job.weight + j * 256 + lane_at);
    to_floats(v, packed[j]);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] *= factor * gain[i];
  };
  float largest = 0.0F;
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    float v[8];
    normed(v, j);
    if (job.out.data != nullptr) store8(job.out.data + row * kHidden + j * 256 + lane_at, v);
#pragma unroll
    for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(v[i]));
  }
  if (job.out.codes == nullptr) return;
  largest = reduce_warp(largest, [](float a, float b) { return fmaxf(a, b); });
  const float scale = largest > 0.0F ? largest / kLargestE4m3 : 1.0F;
  if (threadIdx.x % 32 == 0) job.out.token_scale[row] = scale;
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    float v[8];
    normed(v, j);
    store8(job.out.codes + row * kHidden + j * 256 + lane_at, v, 1.0F / scale);
  }
}

using Entry = void (*)(NormJob);
Entry entry(int32_t hidden) {
  switch (hidden) {
    case 2048: return &add_rms_norm_rows_kernel<8>;
    case 3072: return &add_rms_norm_rows_kernel<12>;
    case 3584: return &add_rms_norm_rows_kernel<14>;
    case 4096: return &add_rms_norm_rows_kernel<16>;
    default: return nullptr;
  }
}

}  // namespace

bool rms_norm_rows_suits(int32_t n_tokens, int32_t hidden) {
  constexpr int32_t kFewest = 1024;  // fewer leave multiprocessors without enough warps
  return n_tokens >= kFewest && entry(hidden) != nullptr;
}

void add_rms_norm_rows(const ActivationOut& out, __nv_bfloat16* residual, const Product& x,
                       const __nv_bfloat16* bias, const __nv_bfloat16* weight, int32_t n_tokens,
                       int32_t hidden, float eps, cudaStream_t stream) {
  constexpr int32_t kRows = kThreads / 32;
  TROUPE_CHECK(entry(hidden) != nullptr) << hidden;
  launch(entry(hidden), dim3(static_cast<unsigned>((n_tokens + kRows - 1) / kRows)), dim3(kThreads),
         0, stream, NormJob{out, residual, x, bias, weight, n_tokens, eps});
}

}  // namespace troupe::cuda
