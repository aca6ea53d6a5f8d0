#include "gpu/base/check.h"
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/ops.h"
#include "gpu/cuda/rms_norm_rows.h"

#include <algorithm>

namespace troupe::cuda {
namespace {

constexpr float kLargestE4m3 = 448.0F;
constexpr int kMaxThreads = 1024;

// ---- reductions ---------------------------------------------------------------------------------

struct Sum {
  __device__ static float apply(float a, float b) { return a + b; }
};
struct Largest {
  __device__ static float apply(float a, float b) { return fmaxf(a, b); }
};

/// Of all threads of the block, the same in every thread and run. `scratch` is [32], one use each.
template <class Op>
__device__ float reduce_block(float value, float* scratch) {
#pragma unroll
  for (int delta = 16; delta > 0; delta /= 2)
    value = Op::apply(value, __shfl_xor_sync(~0U, value, delta));
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : 0.0F;
#pragma unroll
  for (int delta = 16; delta > 0; delta /= 2)
    value = Op::apply(value, __shfl_xor_sync(~0U, value, delta));
  return value;
}

/// v[j][:] of a row held by the block -> e4m3 with one scale. Vector j of thread t is t + j * size.
template <int kVectors>
__device__ void store_codes(const ActivationOut& out, int64_t row, int32_t width,
                            const float (&v)[kVectors][8], float* scratch) {
  float largest = 0.0F;
#pragma unroll
  for (int j = 0; j < kVectors; ++j)
#pragma unroll
    for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(v[j][i]));
  largest = reduce_block<Largest>(largest, scratch);
  const float scale = largest > 0.0F ? largest / kLargestE4m3 : 1.0F;
  if (threadIdx.x == 0) out.token_scale[row] = scale;
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const int32_t at = static_cast<int32_t>(threadIdx.x + j * blockDim.x) * 8;
    if (at < width) store8(out.codes + row * width + at, v[j], 1.0F / scale);
  }
}

/// Threads that hold a row of `width` values at 8 a thread and vector. A row alone wants many
/// threads; many rows want small blocks, so that some load while others reduce.
struct RowShape {
  int32_t threads = 32;
  int32_t vectors = 1;
};
RowShape row_shape(int32_t width, int32_t n_rows) {
  constexpr int32_t kMaxVectors = 4;
  constexpr int32_t kManyRows = 512;
  TROUPE_CHECK(width % 8 == 0 && width > 0 && width <= kMaxThreads * 8 * kMaxVectors) << width;
  const int32_t n = width / 8;
  const int32_t wanted = n_rows >= kManyRows ? 256 : kMaxThreads;
  RowShape shape;
  while (shape.vectors < kMaxVectors && n > shape.vectors * wanted) shape.vectors *= 2;
  shape.threads = (n + shape.vectors - 1) / shape.vectors;
  shape.threads = (shape.threads + 31) / 32 * 32;
  return shape;
}

// ---- embedding ----------------------------------------------------------------------------------

__global__ void embedding_kernel(__nv_bfloat16* out, const __nv_bfloat16* table,
                                 const int32_t* tokens, int32_t vocab_begin, int32_t vocab_local,
                                 int32_t hidden) {
  release_downstream();
  wait_for_upstream();
  const int64_t t = blockIdx.x;
  const int64_t local = tokens[t] - vocab_begin;
  const bool ours = local >= 0 && local < vocab_local;
  const auto* from = reinterpret_cast<const uint4*>(table + local * hidden);
  auto* to = reinterpret_cast<uint4*>(out + t * hidden);
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < hidden / 8;
       i += static_cast<int32_t>(blockDim.x))
    to[i] = ours ? from[i] : uint4{};
}

// ---- norm ---------------------------------------------------------------------------------------

template <int kVectors>
__global__ void __launch_bounds__(kMaxThreads)
    add_rms_norm_kernel(ActivationOut out, __nv_bfloat16* residual, Product x,
                        const __nv_bfloat16* bias, const __nv_bfloat16* weight, int32_t hidden,
                        float eps) {
  __shared__ float scratch[2][32];
  release_downstream();
  const int64_t row = blockIdx.x;
  Bf16x8 gain[kVectors];  // weights are there before the step
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const int32_t at = static_cast<int32_t>(threadIdx.x + j * blockDim.x) * 8;
    if (at < hidden) gain[j] = load_raw(weight + at);
  }
  wait_for_upstream();
  const float token_scale = x.token_scale != nullptr ? x.token_scale[row] : 1.0F;
  float v[kVectors][8] = {};
  float squares = 0.0F;
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const int32_t at = static_cast<int32_t>(threadIdx.x + j * blockDim.x) * 8;
    if (at >= hidden) continue;
    __nv_bfloat16* sum = residual + row * hidden + at;
    load8(v[j], sum);
    if (x.data != nullptr) {
      float add[8];
      load8(add, x.data + row * hidden + at);
      if (x.channel_scale != nullptr) {
        float channel[8];
        load8(channel, x.channel_scale + at);
#pragma unroll
        for (int i = 0; i < 8; ++i) add[i] *= token_scale * channel[i];
      }
      if (bias != nullptr) {
        float b[8];
        load8(b, bias + at);
#pragma unroll
        for (int i = 0; i < 8; ++i) add[i] += b[i];
      }
      // The norm sees what the next layer will read back.
#pragma unroll
      for (int i = 0; i < 8; ++i) v[j][i] = __bfloat162float(__float2bfloat16_rn(v[j][i] + add[i]));
      store8(sum, v[j]);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) squares += v[j][i] * v[j][i];
  }
  squares = reduce_block<Sum>(squares, scratch[0]);
  const float factor = rsqrtf(squares / static_cast<float>(hidden) + eps);
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const int32_t at = static_cast<int32_t>(threadIdx.x + j * blockDim.x) * 8;
    if (at >= hidden) continue;
    float g[8];
    to_floats(g, gain[j]);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[j][i] *= factor * g[i];
    if (out.data != nullptr) store8(out.data + row * hidden + at, v[j]);
  }
  if (out.codes != nullptr) store_codes<kVectors>(out, row, hidden, v, scratch[1]);
}

// ---- rotary embedding and KV --------------------------------------------------------------------

struct RopeJob {
  __nv_bfloat16* q;
  KvLayer kv;
  Product qkv;
  const __nv_bfloat16* bias;
  AttentionShape shape;
  Rope rope;
  const __nv_bfloat16* q_norm;
  const __nv_bfloat16* k_norm;
  float eps;
  const int32_t* positions;
  const int32_t* slots;
};

/// cos and sin of position * frequency, the angle reduced in turns with two floats for each factor,
/// so that positions of 10^5 and more keep all that bf16 can show.
__device__ __forceinline__ void angle(float* cosine, float* sine, int32_t position, float frequency,
                                      float magnitude) {
  constexpr double kPerTurn = 0.15915494309189533577;  // 1 / (2 pi)
  constexpr auto kHigh = static_cast<float>(kPerTurn);
  constexpr auto kLow = static_cast<float>(kPerTurn - static_cast<double>(kHigh));
  const float high = frequency * kHigh;
  const float low = fmaf(frequency, kLow, fmaf(frequency, kHigh, -high));
  const auto p = static_cast<float>(position);  // exact below 2^24
  const float turns = p * high;
  const float rest = fmaf(p, low, fmaf(p, high, -turns)) + (turns - rintf(turns));
  __sincosf(rest * 6.2831853F, sine, cosine);
  *cosine *= magnitude;
  *sine *= magnitude;
}

constexpr int kRopeThreads = 128;

/// A group of kHeadDim / 8 lanes works on one head after the other, 8 values a lane. Grid: tokens x
/// parts of the heads.
template <int kHeadDim>
__global__ void __launch_bounds__(kRopeThreads) rope_kernel(const __grid_constant__ RopeJob job) {
  constexpr int kLanes = kHeadDim / 8;
  constexpr int kGroups = kRopeThreads / kLanes;
  release_downstream();
  const int64_t t = blockIdx.x;
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % kLanes;
  const int32_t at = lane * 8;
  const int32_t n_q = job.shape.n_heads;
  const int32_t n_kv = job.shape.n_kv_heads;
  const int32_t n_heads = n_q + 2 * n_kv;
  const int32_t half = job.rope.rotary_dim / 2;
  const bool interleaved = job.rope.interleaved;
  const bool in_rotary = at < job.rope.rotary_dim;
  const bool first_half = at < half;
  const int32_t partner = !in_rotary ? lane : first_half ? lane + half / 8 : lane - half / 8;
  float frequency[8] = {};
  if (in_rotary) {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      frequency[i] = job.rope.inverse_frequency[interleaved ? (at + i) / 2 : (at + i) % half];
  }
  wait_for_upstream();
  const int32_t position = job.positions[t];
  const int64_t slot = job.slots[t];
  const float token_scale = job.qkv.token_scale != nullptr ? job.qkv.token_scale[t] : 1.0F;
  float cosine[8];
  float sine[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    angle(&cosine[i], &sine[i], position, frequency[i], job.rope.magnitude);
    if (interleaved ? i % 2 == 0 : first_half) sine[i] = -sine[i];
  }

  const int32_t stride = static_cast<int32_t>(gridDim.y) * kGroups;
  const auto begin = static_cast<int32_t>(blockIdx.y * kGroups + threadIdx.x / kLanes);
  const auto values_of = [&](int32_t head) {
    return load_raw(job.qkv.data + (t * n_heads + min(head, n_heads - 1)) * kHeadDim + at);
  };
  Bf16x8 next = values_of(begin);
  // Idle groups go on with the last head: shuffles need whole warps.
  for (int32_t base = 0; base < n_heads; base += stride) {
    const bool active = base + begin < n_heads;
    const int32_t head = active ? base + begin : n_heads - 1;
    const Bf16x8 raw = next;
    next = values_of(head + stride);  // under way while this head is worked on
    const bool is_q = head < n_q;
    const bool is_v = head >= n_q + n_kv;
    const int64_t column = int64_t{head} * kHeadDim + at;
    float v[8];
    to_floats(v, raw);
    if (job.qkv.channel_scale != nullptr) {
      float channel[8];
      load8(channel, job.qkv.channel_scale + column);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] *= token_scale * channel[i];
    }
    if (job.bias != nullptr) {
      float b[8];
      load8(b, job.bias + column);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] += b[i];
    }
    if (job.q_norm != nullptr) {  // all or none of a warp, whatever the kinds of its heads
      float squares = 0.0F;
#pragma unroll
      for (int i = 0; i < 8; ++i) squares += v[i] * v[i];
#pragma unroll
      for (int delta = kLanes / 2; delta > 0; delta /= 2)
        squares += __shfl_xor_sync(~0U, squares, delta, kLanes);
      if (!is_v) {
        const float factor = rsqrtf(squares / kHeadDim + job.eps);
        float gain[8];
        load8(gain, (is_q ? job.q_norm : job.k_norm) + at);
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] *= factor * gain[i];
      }
    }
    float rotated[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float other = interleaved ? v[i ^ 1] : __shfl_sync(~0U, v[i], partner, kLanes);
      rotated[i] = in_rotary && !is_v ? v[i] * cosine[i] + other * sine[i] : v[i];
    }
    if (!active) continue;
    if (is_q) {
      store8(job.q + (t * n_q + head) * kHeadDim + at, rotated);
      continue;
    }
    const int32_t kv_head = head - n_q - (is_v ? n_kv : 0);
    const int64_t to = ((slot * n_kv + kv_head) * 2 + (is_v ? 1 : 0)) * kHeadDim + at;
    if (job.kv.format == KvFormat::kBf16) {
      store8(static_cast<__nv_bfloat16*>(job.kv.data) + to, rotated);
    } else {
      store8(static_cast<uint8_t*>(job.kv.data) + to, rotated,
             1.0F / (is_v ? job.kv.v_scale : job.kv.k_scale));
    }
  }
}

// ---- activation ---------------------------------------------------------------------------------

struct GateUp {
  Product product;
  int32_t width;
};

/// silu(gate) * up of 8 columns; fp8 products get their scales here.
__device__ __forceinline__ void silu_mul8(float (&v)[8], const GateUp& in, int64_t t, int32_t at,
                                          float token_scale) {
  float gate[8];
  float up[8];
  const int64_t row = t * 2 * in.width;
  load8(gate, in.product.data + row + at);
  load8(up, in.product.data + row + in.width + at);
  if (in.product.channel_scale != nullptr) {
    float g[8];
    float u[8];
    load8(g, in.product.channel_scale + at);
    load8(u, in.product.channel_scale + in.width + at);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      gate[i] *= token_scale * g[i];
      up[i] *= token_scale * u[i];
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = gate[i] / (1.0F + __expf(-gate[i])) * up[i];
}

__global__ void silu_mul_kernel(__nv_bfloat16* out, GateUp in) {
  release_downstream();
  wait_for_upstream();
  const int64_t t = blockIdx.x;
  const int32_t at = static_cast<int32_t>(blockIdx.y * blockDim.x + threadIdx.x) * 8;
  if (at >= in.width) return;
  const float token_scale = in.product.token_scale != nullptr ? in.product.token_scale[t] : 1.0F;
  float v[8];
  silu_mul8(v, in, t, at, token_scale);
  store8(out + t * in.width + at, v);
}

template <int kVectors>
__global__ void __launch_bounds__(kMaxThreads)
    silu_mul_quantize_kernel(ActivationOut out, GateUp in) {
  __shared__ float scratch[32];
  release_downstream();
  wait_for_upstream();
  const int64_t t = blockIdx.x;
  const float token_scale = in.product.token_scale != nullptr ? in.product.token_scale[t] : 1.0F;
  float v[kVectors][8] = {};
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const int32_t at = static_cast<int32_t>(threadIdx.x + j * blockDim.x) * 8;
    if (at >= in.width) continue;
    silu_mul8(v[j], in, t, at, token_scale);
    if (out.data != nullptr) store8(out.data + t * in.width + at, v[j]);
  }
  store_codes<kVectors>(out, t, in.width, v, scratch);
}

__global__ void gather_rows_kernel(__nv_bfloat16* out, const __nv_bfloat16* in, const int32_t* rows,
                                   int32_t width) {
  release_downstream();
  wait_for_upstream();
  const auto* from = reinterpret_cast<const uint4*>(in + int64_t{rows[blockIdx.x]} * width);
  auto* to = reinterpret_cast<uint4*>(out + int64_t{blockIdx.x} * width);
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < width / 8;
       i += static_cast<int32_t>(blockDim.x))
    to[i] = from[i];
}

__global__ void apply_scales_kernel(__nv_bfloat16* data, Product product, int32_t width) {
  release_downstream();
  wait_for_upstream();
  const int64_t t = blockIdx.x;
  const int32_t at = static_cast<int32_t>(blockIdx.y * blockDim.x + threadIdx.x) * 8;
  if (at >= width) return;
  float v[8];
  float channel[8];
  load8(v, product.data + t * width + at);
  load8(channel, product.channel_scale + at);
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] *= product.token_scale[t] * channel[i];
  store8(data + t * width + at, v);
}

/// Grid: rows x ranks.
__global__ void join_vocabulary_kernel(float* out, const float* parts,
                                       const __grid_constant__ VocabularySplit split) {
  release_downstream();
  wait_for_upstream();
  const int64_t row = blockIdx.x;
  const int32_t rank = static_cast<int32_t>(blockIdx.y);
  const int32_t width = split.begin[rank + 1] - split.begin[rank];
  const float* from = parts + int64_t{rank} * gridDim.x * split.widest + row * width;
  float* to = out + row * split.begin[split.n_ranks] + split.begin[rank];
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < width;
       i += static_cast<int32_t>(blockDim.x))
    to[i] = from[i];
}

unsigned u(int32_t n) { return static_cast<unsigned>(n); }

}  // namespace

// ---- the ops ------------------------------------------------------------------------------------

void embedding(__nv_bfloat16* out, const __nv_bfloat16* table, const int32_t* tokens,
               int32_t vocab_begin, int32_t vocab_local, int32_t n_tokens, int32_t hidden,
               cudaStream_t stream) {
  if (n_tokens == 0) return;
  TROUPE_CHECK(hidden % 8 == 0) << hidden;
  const int32_t threads = std::clamp((hidden / 8 + 31) / 32 * 32, 32, 256);
  launch(embedding_kernel, dim3(u(n_tokens)), dim3(u(threads)), 0, stream, out, table, tokens,
         vocab_begin, vocab_local, hidden);
}

void add_rms_norm(const ActivationOut& out, __nv_bfloat16* residual, const Product& x,
                  const __nv_bfloat16* bias, const __nv_bfloat16* weight, int32_t n_tokens,
                  int32_t hidden, float eps, cudaStream_t stream) {
  if (n_tokens == 0) return;
  if (rms_norm_rows_suits(n_tokens, hidden)) {
    add_rms_norm_rows(out, residual, x, bias, weight, n_tokens, hidden, eps, stream);
    return;
  }
  const RowShape shape = row_shape(hidden, n_tokens);
  const auto kernel = shape.vectors == 1   ? add_rms_norm_kernel<1>
                      : shape.vectors == 2 ? add_rms_norm_kernel<2>
                                           : add_rms_norm_kernel<4>;
  launch(kernel, dim3(u(n_tokens)), dim3(u(shape.threads)), 0, stream, out, residual, x, bias,
         weight, hidden, eps);
}

void rope_and_store_kv(__nv_bfloat16* q, const KvLayer& kv, const Product& qkv,
                       const __nv_bfloat16* bias, const AttentionShape& shape, const Rope& rope,
                       const __nv_bfloat16* q_norm, const __nv_bfloat16* k_norm, float eps,
                       const int32_t* positions, const int32_t* slots, int32_t n_tokens,
                       cudaStream_t stream) {
  if (n_tokens == 0) return;
  TROUPE_CHECK(shape.head_dim == 64 || shape.head_dim == 128) << shape.head_dim;
  TROUPE_CHECK((q_norm == nullptr) == (k_norm == nullptr));
  TROUPE_CHECK(rope.rotary_dim % 16 == 0 && rope.rotary_dim <= shape.head_dim) << rope.rotary_dim;
  const RopeJob job = {q, kv, qkv, bias, shape, rope, q_norm, k_norm, eps, positions, slots};
  const int32_t heads_per_block = kRopeThreads / (shape.head_dim / 8);
  const int32_t n_heads = shape.n_heads + 2 * shape.n_kv_heads;
  // Few tokens are spread over the device; with many the angles are computed once for all heads.
  constexpr int32_t kEnoughBlocks = 1024;
  const int32_t most = (n_heads + heads_per_block - 1) / heads_per_block;
  const int32_t parts = std::clamp(kEnoughBlocks / n_tokens, 1, most);
  launch(shape.head_dim == 64 ? rope_kernel<64> : rope_kernel<128>, dim3(u(n_tokens), u(parts)),
         dim3(kRopeThreads), 0, stream, job);
}

void silu_mul(const ActivationOut& out, const Product& gate_up, int32_t n_tokens, int32_t width,
              cudaStream_t stream) {
  if (n_tokens == 0) return;
  const GateUp in = {gate_up, width};
  if (out.codes == nullptr) {
    TROUPE_CHECK(width % 8 == 0) << width;
    constexpr int32_t kThreads = 256;
    launch(silu_mul_kernel, dim3(u(n_tokens), u((width / 8 + kThreads - 1) / kThreads)),
           dim3(kThreads), 0, stream, out.data, in);
    return;
  }
  const RowShape shape = row_shape(width, n_tokens);
  const auto kernel = shape.vectors == 1   ? silu_mul_quantize_kernel<1>
                      : shape.vectors == 2 ? silu_mul_quantize_kernel<2>
                                           : silu_mul_quantize_kernel<4>;
  launch(kernel, dim3(u(n_tokens)), dim3(u(shape.threads)), 0, stream, out, in);
}

void gather_rows(__nv_bfloat16* out, const __nv_bfloat16* in, const int32_t* rows, int32_t n_rows,
                 int32_t width, cudaStream_t stream) {
  if (n_rows == 0) return;
  TROUPE_CHECK(width % 8 == 0) << width;
  launch(gather_rows_kernel, dim3(u(n_rows)), dim3(256), 0, stream, out, in, rows, width);
}

void apply_scales(__nv_bfloat16* data, const Product& product, int32_t n_tokens, int32_t width,
                  cudaStream_t stream) {
  if (n_tokens == 0) return;
  TROUPE_CHECK(width % 8 == 0 && product.channel_scale != nullptr) << width;
  constexpr int32_t kThreads = 256;
  launch(apply_scales_kernel, dim3(u(n_tokens), u((width / 8 + kThreads - 1) / kThreads)),
         dim3(kThreads), 0, stream, data, product, width);
}

void join_vocabulary(float* out, const float* parts, const VocabularySplit& split, int32_t n_rows,
                     cudaStream_t stream) {
  if (n_rows == 0) return;
  launch(join_vocabulary_kernel, dim3(u(n_rows), u(split.n_ranks)), dim3(512), 0, stream, out,
         parts, split);
}

}  // namespace troupe::cuda
