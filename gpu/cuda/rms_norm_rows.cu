#include "gpu/base/check.h"
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/rms_norm_rows.h"

/// A row stays in the registers of a small block from its load to its store, packed as bf16, so
/// that many rows are under way on a multiprocessor and loads, sums and stores of different ones
/// overlap.
namespace troupe::cuda {
namespace {

constexpr float kLargestE4m3 = 448.0F;
constexpr int kRows = 4;    // of a block, a warp each
constexpr int kBlocks = 4;  // of a multiprocessor
constexpr int kSpan = 32 * 8;

struct NormJob {
  ActivationOut out;
  __nv_bfloat16* residual;
  Product x;
  const __nv_bfloat16* bias;
  const __nv_bfloat16* weight;
  int32_t n_tokens;
  float eps;
};

__device__ __forceinline__ Bf16x8 pack(const float (&v)[8]) {
  Bf16x8 out;
#pragma unroll
  for (int i = 0; i < 4; ++i) out.pair[i] = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
  return out;
}

/// Rows of kVectors * kSpan columns; vector j of a lane is at j * kSpan + lane * 8.
template <int kVectors>
__global__ void __launch_bounds__(kRows * 32, kBlocks)
    add_rms_norm_rows_kernel(const __grid_constant__ NormJob job) {
  constexpr int kLoads = kVectors % 4 == 0 ? 4 : 2;  // at a time
  constexpr int64_t kHidden = int64_t{kVectors} * kSpan;
  release_downstream();
  wait_for_upstream();
  const int64_t row = int64_t{blockIdx.x} * kRows + threadIdx.x / 32;
  if (row >= job.n_tokens) return;
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const int32_t at = lane * 8;
  const bool adds = job.x.data != nullptr;
  const bool quantises = job.out.codes != nullptr;
  const float token_scale = job.x.token_scale != nullptr ? job.x.token_scale[row] : 1.0F;
  __nv_bfloat16* const sum = job.residual + row * kHidden + at;
  const __nv_bfloat16* const add = job.x.data + row * kHidden + at;
  Bf16x8 packed[kVectors];
  float squares = 0.0F;
  float largest = 0.0F;  // of |residual * weight|: the row's factor comes later
#pragma unroll
  for (int first = 0; first < kVectors; first += kLoads) {
    Bf16x8 more[kLoads] = {};
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      packed[first + j] = load_raw(sum + (first + j) * kSpan);
      if (adds) more[j] = load_raw(add + (first + j) * kSpan);
    }
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int32_t column = (first + j) * kSpan + at;
      float v[8];
      to_floats(v, packed[first + j]);
      if (adds) {
        float a[8];
        to_floats(a, more[j]);
        if (job.x.channel_scale != nullptr) {
          float channel[8];
          load8(channel, job.x.channel_scale + column);
#pragma unroll
          for (int i = 0; i < 8; ++i) a[i] *= token_scale * channel[i];
        }
        if (job.bias != nullptr) {
          float b[8];
          load8(b, job.bias + column);
#pragma unroll
          for (int i = 0; i < 8; ++i) a[i] += b[i];
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] += a[i];
        // The norm sees what the next layer will read back.
        packed[first + j] = pack(v);
        *reinterpret_cast<Bf16x8*>(sum + (first + j) * kSpan) = packed[first + j];
        to_floats(v, packed[first + j]);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) squares += v[i] * v[i];
      if (quantises) {
        float gain[8];
        load8(gain, job.weight + column);
#pragma unroll
        for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(v[i] * gain[i]));
      }
    }
  }
#pragma unroll
  for (int delta = 16; delta > 0; delta /= 2) {
    squares += __shfl_xor_sync(~0U, squares, delta);
    largest = fmaxf(largest, __shfl_xor_sync(~0U, largest, delta));
  }
  const float factor = rsqrtf(squares / static_cast<float>(kHidden) + job.eps);
  const float scale = largest > 0.0F ? largest * factor / kLargestE4m3 : 1.0F;
  if (quantises && lane == 0) job.out.token_scale[row] = scale;
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const int32_t column = j * kSpan + at;
    float v[8];
    float gain[8];
    load8(gain, job.weight + column);
    to_floats(v, packed[j]);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] *= factor * gain[i];
    if (job.out.data != nullptr) store8(job.out.data + row * kHidden + column, v);
    if (quantises) store8(job.out.codes + row * kHidden + column, v, 1.0F / scale);
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
  TROUPE_CHECK(entry(hidden) != nullptr) << hidden;
  launch(entry(hidden), dim3(static_cast<unsigned>((n_tokens + kRows - 1) / kRows)),
         dim3(kRows * 32), 0, stream, NormJob{out, residual, x, bias, weight, n_tokens, eps});
}

}  // namespace troupe::cuda
