#pragma once

#include "gpu/cuda/attention.h"

#include <cstdint>

/// What the prefill plan, its kernels and their host code share. A step's prefill is: copy the
/// longer chunks' K and V from their slots into tiles that lie in memory as wgmma wants them in
/// shared memory; attend; merge what was split along the context.
namespace troupe::cuda::prefill {

constexpr int32_t kTile = 128;  // positions of a K or V tile
constexpr int32_t kRows = 128;  // (token, head of the group) pairs of an item
constexpr int32_t kThreads = 384;
constexpr int32_t kDirectRows = 2 * kRows;  // at most, of a direct chunk

/// A chunk on the device. A direct one is short: its few items read K and V from their slots, as
/// copying them first would cost more. Else tile t of KV head h is tile `tile_base + h * n_tiles +
/// t` of the copy; chunks follow each other in it.
struct DeviceChunk {
  int32_t token_begin = 0;
  int32_t n_tokens = 0;
  int32_t context = 0;
  int32_t table_row = 0;
  int32_t tile_base = 0;
  int32_t n_tiles = 0;  // copied of each KV head: 0 when direct
};

/// Rows [row_begin, row_begin + kRows) of a chunk's n_tokens * group rows (row = token * group +
/// head) against tiles [tile_begin, tile_end) of one KV head.
struct Item {
  int32_t chunk = 0;
  int32_t head = 0;
  int32_t row_begin = 0;
  int32_t tile_begin = 0;
  int32_t tile_end = 0;
  int32_t partial = -1;  // where the result goes when others must be added, or -1
};

/// An item that was split along the context: partials [first, first + count).
struct Split {
  int32_t chunk = 0;
  int32_t head = 0;
  int32_t row_begin = 0;
  int32_t first = 0;
  int32_t count = 0;
};

struct Params {
  __nv_bfloat16* out = nullptr;
  const __nv_bfloat16* q = nullptr;
  const void* kv = nullptr;
  unsigned char* tiles = nullptr;  // [tile][K | V][dims / 64][kTile][64] bf16, 128-byte swizzle
  const DeviceChunk* chunks = nullptr;
  const Item* items = nullptr;
  const Split* splits = nullptr;
  float* partial = nullptr;           // [partial][kRows][head_dim], not normalised
  float2* partial_max_sum = nullptr;  // [partial][kRows]
  const int32_t* slots = nullptr;
  int64_t slots_stride = 0;
  int32_t n_chunks = 0;
  int32_t n_items = 0;
  int32_t n_heads = 0;
  int32_t n_kv_heads = 0;
  int32_t group = 0;
  int32_t window = 0;
  float score_scale = 0;  // scale * k_scale * log2(e)
  float out_scale = 0;    // v_scale
};

/// First tile of an item that its rows can see through the window.
__device__ __forceinline__ int32_t first_tile(const Params& p, const DeviceChunk& c,
                                              const Item& item) {
  if (p.window == 0) return item.tile_begin;
  const int32_t first_position = c.context - c.n_tokens + item.row_begin / p.group;
  return max(item.tile_begin, (first_position - p.window + 1) / kTile);
}

constexpr size_t tile_bytes(int32_t head_dim) { return size_t{2} * kTile * 2 * head_dim; }

/// The attend kernel of a head size: one persistent block per multiprocessor.
struct Kernel {
  const void* function = nullptr;
  size_t shared_bytes = 0;
};
Kernel attend_kernel(int32_t head_dim);
/// Copies the chunks' `n_tiles` tiles (of each KV head).
void launch_gather(const Params& p, KvFormat format, int32_t head_dim, int32_t n_tiles,
                   cudaStream_t stream);
void launch_merge(const Params& p, int32_t head_dim, int32_t n_splits, cudaStream_t stream);

}  // namespace troupe::cuda::prefill
