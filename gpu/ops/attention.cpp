#include "gpu/ops/attention.h"

#include "gpu/base/check.h"
#include "gpu/device/stream.h"
#include "gpu/ops/kernels.h"

#include <algorithm>

namespace troupe::cpu {
namespace {

/// Tokens per work item, so that their query heads fill the kernel's scratch space.
int32_t tile_tokens(std::span<const int32_t> kv_head_of, const QkvShape& shape) {
  const auto group = static_cast<int32_t>(kv_head_of.size()) / std::max(shape.n_kv_heads, 1);
  return std::clamp(kMaxItemQueries / std::max(group, 1), 1, 16);
}

}  // namespace

void attention(float* out, const float* qkv, const KvLayer& kv, const QkvShape& shape,
               std::span<const int32_t> kv_head_of, std::span<const AttentionRow> rows, float scale,
               int32_t window, Stream& stream) {
  TROUPE_CHECK(shape.head_dim % 8 == 0 && shape.head_dim <= kMaxHeadDim) << shape.head_dim;
  TROUPE_CHECK(kv_head_of.size() == static_cast<size_t>(shape.n_heads)) << kv_head_of.size();
  TROUPE_CHECK(kv.dtype == DType::kF16 || kv.dtype == DType::kF32) << to_string(kv.dtype);
  const Kernels& k = kernels(stream.isa());
  const AttentionJob job{out, qkv, kv, shape, scale, window};
  const int32_t tile = tile_tokens(kv_head_of, shape);
  int64_t n_tiles = 0;
  for (const AttentionRow& row : rows) {
    TROUPE_CHECK(row.n_tokens >= 0 && row.n_tokens <= row.context)
        << row.n_tokens << ' ' << row.context;
    n_tiles += (row.n_tokens + tile - 1) / tile;
  }
  // Work items are (token tile, KV head). The dearest, late tokens of the last rows, go first.
  const auto body = [&](int64_t begin, int64_t end, int32_t) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t index = n_tiles - 1 - i / shape.n_kv_heads;
      AttentionItem item;
      item.kv_head = static_cast<int32_t>(i % shape.n_kv_heads);
      size_t r = 0;
      for (;; ++r) {
        const int64_t tiles = (rows[r].n_tokens + tile - 1) / tile;
        if (index < tiles) break;
        index -= tiles;
      }
      item.row = rows[r];
      const auto heads = std::equal_range(kv_head_of.begin(), kv_head_of.end(), item.kv_head);
      const auto head_begin = static_cast<int32_t>(heads.first - kv_head_of.begin());
      const auto head_end = static_cast<int32_t>(heads.second - kv_head_of.begin());
      const auto first = static_cast<int32_t>(index) * tile;
      const int32_t last = std::min(first + tile, item.row.n_tokens);
      // Uneven groups (a KV head shared between ranks) may need the tile in pieces.
      const int32_t step_heads = std::min(head_end - head_begin, kMaxItemQueries);
      if (step_heads == 0) continue;
      const int32_t step_tokens = kMaxItemQueries / step_heads;
      for (item.first = first; item.first < last; item.first += step_tokens) {
        item.n = std::min(step_tokens, last - item.first);
        for (int32_t h = head_begin; h < head_end; h += step_heads) {
          item.head_begin = h;
          item.head_end = std::min(h + step_heads, head_end);
          k.attention(job, item);
        }
      }
    }
  };
  stream.parallel_for(n_tiles * shape.n_kv_heads, 1, body);
}

}  // namespace troupe::cpu
