#include "gpu/cuda/attention_launch.h"
#include "gpu/cuda/attention_prefill.cuh"
#include "gpu/cuda/attention_ptx.cuh"
#include "gpu/cuda/device.h"

/// The memory-bound ends of prefill attention: KV out of its slots, and split results together.
namespace troupe::cuda::prefill {
namespace {

constexpr int kGatherThreads = 256;
constexpr int kGatherTokens = 32;  // of one block
constexpr int kMergeRows = 4;      // of one block, a warp each

/// The 16 bytes of bf16 that chunk `chunk` (8 values) of a K or V row holds.
__device__ __forceinline__ uint4 load_chunk(const __nv_bfloat16* row, int chunk) {
  return __ldg(reinterpret_cast<const uint4*>(row) + chunk);
}
__device__ __forceinline__ uint32_t f16_to_bf16(uint32_t x) {  // exact for e4m3 values
  const float2 f = __half22float2(*reinterpret_cast<const __half2*>(&x));
  return pack2(f.x, f.y, __nv_bfloat16());
}
__device__ __forceinline__ uint4 load_chunk(const __nv_fp8_e4m3* row, int chunk) {
  const uint2 x = __ldg(reinterpret_cast<const uint2*>(row) + chunk);
  uint4 y;
  e4m3_to_f16(y.x, y.y, x.x);
  e4m3_to_f16(y.z, y.w, x.y);
  return {f16_to_bf16(y.x), f16_to_bf16(y.y), f16_to_bf16(y.z), f16_to_bf16(y.w)};
}

/// Block = (quarter of a tile, KV head). Positions past the context become zeros: 0 * NaN would
/// reach the sums.
template <class Kv, int kHeadDim>
__global__ void __launch_bounds__(kGatherThreads) gather(const Params p) {
  constexpr int kChunks = 2 * kHeadDim / 8;  // of a slot's K | V
  constexpr int kMatrixBytes = kTile * kHeadDim * 2;
  grid_dependency_wait();
  grid_dependency_launch();
  const int head = static_cast<int>(blockIdx.y);
  const int base = static_cast<int>(blockIdx.x) / (kTile / kGatherTokens) * p.n_kv_heads;
  const int part = static_cast<int>(blockIdx.x) % (kTile / kGatherTokens) * kGatherTokens;
  int low = 0;  // the last chunk with tile_base <= base
  int high = p.n_chunks;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (p.chunks[middle].tile_base <= base ? low : high) = middle;
  }
  const DeviceChunk c = p.chunks[low];
  const int tile_index = (base - c.tile_base) / p.n_kv_heads;
  const int first = tile_index * kTile;
  if (p.window > 0 && first + kTile <= c.context - c.n_tokens + 1 - p.window) return;
  const int32_t* slots = p.slots + c.table_row * p.slots_stride;
  const auto* kv = static_cast<const Kv*>(p.kv);
  const int64_t slot_size = int64_t{2} * p.n_kv_heads * kHeadDim;
  unsigned char* tile = p.tiles + (static_cast<int64_t>(c.tile_base) +
                                   static_cast<int64_t>(head) * c.n_tiles + tile_index) *
                                      (2 * kMatrixBytes);
  constexpr int kTurns = kGatherTokens * kChunks / kGatherThreads;
#pragma unroll
  for (int i = 0; i < kTurns; ++i) {
    const int at = i * kGatherThreads + static_cast<int>(threadIdx.x);
    const int t = part + at / kChunks;
    const int chunk = at % kChunks;
    uint4 x = {0, 0, 0, 0};
    if (first + t < c.context)
      x = load_chunk(kv + slots[first + t] * slot_size + int64_t{2} * head * kHeadDim, chunk);
    const int matrix = chunk / (kHeadDim / 8);
    const int column = chunk % (kHeadDim / 8);
    *reinterpret_cast<uint4*>(tile + matrix * kMatrixBytes + column / 8 * (kTile * 128) + t * 128 +
                              ((column % 8) ^ (t & 7)) * 16) = x;
  }
}

/// Block = kMergeRows rows of a split; its partials are added in the order of the context.
template <int kHeadDim>
__global__ void __launch_bounds__(kMergeRows * 32) merge(const Params p) {
  grid_dependency_wait();
  const Split split = p.splits[blockIdx.x];
  const DeviceChunk c = p.chunks[split.chunk];
  const int r = static_cast<int>(blockIdx.y) * kMergeRows + static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int token = (split.row_begin + r) / p.group;
  if (token >= c.n_tokens) return;
  const int head = split.head * p.group + (split.row_begin + r) % p.group;
  constexpr int kPairs = kHeadDim / 64;  // float2 of a lane
  float m = -INFINITY;
  float l = 0;
  float2 o[kPairs] = {};
  for (int i = 0; i < split.count; ++i) {
    const int64_t at = static_cast<int64_t>(split.first + i) * kRows + r;
    const float2 ml = p.partial_max_sum[at];
    if (ml.x == -INFINITY) continue;
    const float next = fmaxf(m, ml.x);
    const float keep = fast_exp2(m - next);
    const float weight = fast_exp2(ml.x - next);
    m = next;
    l = l * keep + ml.y * weight;
#pragma unroll
    for (int k = 0; k < kPairs; ++k) {
      const float2 x =
          *reinterpret_cast<const float2*>(p.partial + at * kHeadDim + (k * 32 + lane) * 2);
      o[k] = {o[k].x * keep + x.x * weight, o[k].y * keep + x.y * weight};
    }
  }
  const float scale = p.out_scale / l;
  const int64_t to = (static_cast<int64_t>(c.token_begin + token) * p.n_heads + head) * kHeadDim;
#pragma unroll
  for (int k = 0; k < kPairs; ++k)
    *reinterpret_cast<uint32_t*>(p.out + to + (k * 32 + lane) * 2) =
        pack2(o[k].x * scale, o[k].y * scale, __nv_bfloat16());
}

}  // namespace

void launch_gather(const Params& p, KvFormat format, int32_t head_dim, int32_t n_tiles,
                   cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(n_tiles * (kTile / kGatherTokens)),
                  static_cast<unsigned>(p.n_kv_heads));
  void (*kernel)(Params) = nullptr;
  if (format == KvFormat::kBf16)
    kernel = head_dim == 128 ? &gather<__nv_bfloat16, 128> : &gather<__nv_bfloat16, 64>;
  else
    kernel = head_dim == 128 ? &gather<__nv_fp8_e4m3, 128> : &gather<__nv_fp8_e4m3, 64>;
  launch(reinterpret_cast<const void*>(kernel), grid, kGatherThreads, 0, &p, true, stream);
}

void launch_merge(const Params& p, int32_t head_dim, int32_t n_splits, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(n_splits), kRows / kMergeRows);
  void (*kernel)(Params) = head_dim == 128 ? &merge<128> : &merge<64>;
  launch(reinterpret_cast<const void*>(kernel), grid, kMergeRows * 32, 0, &p, true, stream);
}

}  // namespace troupe::cuda::prefill
