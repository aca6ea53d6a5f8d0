#pragma once

#include "gpu/cuda/attention.h"

#include <cstdint>

/// What the decode plan, its kernels and their host code share.
namespace troupe::cuda::decode {

/// Batch-invariant mode: a unit has at least so many tokens, a (row, KV head) at most so many
/// units.
constexpr int32_t kUnitTokens = 512;
constexpr int32_t kMaxUnits = 16;

/// Positions of a tile: what a block takes from one (row, KV head) in one turn.
constexpr int32_t tile_tokens(KvFormat format, int32_t head_dim) {
  return format == KvFormat::kBf16 && head_dim == 128 ? 64 : 128;
}

/// A row's share of the plan. The step's work is the sequence of units in (row, KV head, unit)
/// order; a unit is `unit_tiles` tiles and belongs to one block.
struct alignas(16) RowPlan {
  int32_t begin = 0;       // first position that the plan's window lets through
  int32_t context = 0;     // 0: padding
  int32_t table_row = 0;   // of the slot table
  int32_t unit_base = 0;   // index of the row's first unit
  int32_t n_units = 0;     // per KV head
  int32_t unit_tiles = 0;  // tiles of a unit
  int32_t n_tiles = 0;     // per KV head
  int32_t unused = 0;
};

/// Where a block starts and how many units it takes; all that it needs before its first load.
struct alignas(16) BlockPlan {
  int32_t row = 0;
  int32_t head = 0;
  int32_t unit = 0;
  int32_t n_units = 0;
  int32_t units_per_block = 0;  // of all blocks but the last
  int32_t unused[3] = {};
  RowPlan first_row;  // rows[row]
};

struct Params {
  __nv_bfloat16* out = nullptr;
  const __nv_bfloat16* q = nullptr;
  const void* kv = nullptr;
  const RowPlan* rows = nullptr;      // [max_rows]
  const BlockPlan* blocks = nullptr;  // [grid]
  float* partial = nullptr;           // [partials][group][head_dim], not normalised
  float2* partial_max_sum = nullptr;  // [partials][group]
  uint32_t* tickets = nullptr;        // [max_rows][n_kv_heads], 0 between launches
  const int32_t* slots = nullptr;
  int64_t slots_stride = 0;
  int32_t n_heads = 0;
  int32_t n_kv_heads = 0;
  int32_t group = 0;
  int32_t window = 0;
  float score_scale = 0;  // scale * k_scale * log2(e)
  float out_scale = 0;    // v_scale
  bool batch_invariant = false;
};

/// A kernel of (head_dim, heads per KV head), two blocks of which fit on a multiprocessor.
struct Kernel {
  const void* function = nullptr;
  int32_t threads = 0;
  size_t shared_bytes = 0;
};
Kernel kernel_bf16(int32_t head_dim, int32_t group);
Kernel kernel_fp8(int32_t head_dim, int32_t group);

}  // namespace troupe::cuda::decode
