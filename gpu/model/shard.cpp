#include "gpu/model/shard.h"

#include "gpu/base/check.h"

#include <algorithm>

namespace troupe {
namespace {

/// Part `i` of `total` units dealt to `n` parts as evenly as they go, the larger parts first.
Range part(int64_t total, int64_t i, int64_t n) {
  const int64_t each = total / n;
  const int64_t more = total % n;
  const int64_t begin = i * each + std::min(i, more);
  return {begin, begin + each + (i < more ? 1 : 0)};
}

/// The same in units of `unit`; the last unit may be incomplete.
Range part_in_units(int64_t total, int64_t unit, int64_t i, int64_t n) {
  const Range units = part((total + unit - 1) / unit, i, n);
  return {std::min(units.begin * unit, total), std::min(units.end * unit, total)};
}

/// The KV head that rank `r` of `n` > `n_kv` ranks works on, and its place among that head's ranks.
struct Seat {
  int64_t kv_head = 0;
  int64_t place = 0;
  int64_t ranks = 0;
};
Seat find_seat(int64_t r, int64_t n, int64_t n_kv) {
  for (int64_t h = 0; h < n_kv; ++h) {
    const Range ranks = part(n, h, n_kv);
    if (r < ranks.end) return {h, r - ranks.begin, ranks.size()};
  }
  return {};
}

}  // namespace

Shard make_shard(const ModelConfig& config, int64_t ffn_block, int32_t rank, int32_t n) {
  TROUPE_CHECK(rank >= 0 && rank < n && n <= config.n_heads) << rank << " of " << n;
  TROUPE_CHECK(ffn_block > 0) << ffn_block;
  const int64_t group = config.n_heads / config.n_kv_heads;
  Shard shard;
  if (n <= config.n_kv_heads) {
    shard.kv_heads = part(config.n_kv_heads, rank, n);
    shard.query_heads = {shard.kv_heads.begin * group, shard.kv_heads.end * group};
  } else {
    const Seat seat = find_seat(rank, n, config.n_kv_heads);
    const Range queries = part(group, seat.place, seat.ranks);
    shard.kv_heads = {seat.kv_head, seat.kv_head + 1};
    shard.query_heads = {seat.kv_head * group + queries.begin, seat.kv_head * group + queries.end};
  }
  for (int64_t q = shard.query_heads.begin; q < shard.query_heads.end; ++q) {
    shard.kv_head_of.push_back(static_cast<int32_t>(q / group - shard.kv_heads.begin));
  }
  shard.ffn = part_in_units(config.ffn, ffn_block, rank, n);
  shard.vocab = part_in_units(config.vocab, 32, rank, n);
  return shard;
}

}  // namespace troupe
