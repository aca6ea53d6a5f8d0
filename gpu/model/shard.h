#pragma once

#include "gpu/model/config.h"

#include <cstdint>
#include <vector>

namespace troupe {

/// Half-open range.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  [[nodiscard]] int64_t size() const { return end - begin; }
};

/// What rank r of n owns. Pure arithmetic; every rank can compute every other rank's.
struct Shard {
  Range query_heads;                // of n_heads
  Range kv_heads;                   // of n_kv_heads; shared with other ranks when n > n_kv_heads
  std::vector<int32_t> kv_head_of;  // [query_heads.size()] local KV head each query head reads
  Range ffn;    // columns of the MLP, in multiples of the down matrix's block (32, 256)
  Range vocab;  // rows of embedding and head
};

/// KV heads are dealt out as evenly as they go (3 on 2 ranks = 2 + 1), with the query heads that
/// read them; replicated when n > n_kv_heads (query heads are then split within a KV head). MLP
/// columns in multiples of `ffn_block`, vocabulary rows in multiples of 32 but for the last.
/// Requires n <= n_heads.
Shard make_shard(const ModelConfig& config, int64_t ffn_block, int32_t rank, int32_t n);

}  // namespace troupe
