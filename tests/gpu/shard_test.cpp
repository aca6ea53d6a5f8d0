#include "gpu/model/shard.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace troupe {
namespace {

ModelConfig make_config(int32_t heads, int32_t kv_heads, int32_t ffn, int32_t vocab) {
  ModelConfig c;
  c.n_heads = heads;
  c.n_kv_heads = kv_heads;
  c.ffn = ffn;
  c.vocab = vocab;
  return c;
}

std::vector<Shard> all_shards(const ModelConfig& c, int64_t block, int32_t n) {
  std::vector<Shard> out;
  for (int32_t r = 0; r < n; ++r) out.push_back(make_shard(c, block, r, n));
  return out;
}

/// The ranges follow each other from 0 to `total`.
void expect_partition(const std::vector<Shard>& shards, Range Shard::*range, int64_t total) {
  int64_t at = 0;
  for (const Shard& s : shards) {
    EXPECT_EQ((s.*range).begin, at);
    EXPECT_GE((s.*range).size(), 0);
    at = (s.*range).end;
  }
  EXPECT_EQ(at, total);
}

void expect_multiples(const std::vector<Shard>& shards, Range Shard::*range, int64_t total,
                      int64_t unit) {
  int64_t smallest = total;
  int64_t largest = 0;
  for (const Shard& s : shards) {
    EXPECT_TRUE((s.*range).begin % unit == 0 || (s.*range).begin == total);
    EXPECT_TRUE((s.*range).end % unit == 0 || (s.*range).end == total);
    const int64_t units = ((s.*range).size() + unit - 1) / unit;
    smallest = std::min(smallest, units);
    largest = std::max(largest, units);
  }
  EXPECT_LE(largest - smallest, 1) << "as even as whole units go";
}

void expect_attention(const std::vector<Shard>& shards, const ModelConfig& c) {
  const int64_t group = c.n_heads / c.n_kv_heads;
  std::set<int64_t> kv_seen;
  for (const Shard& s : shards) {
    EXPECT_GE(s.query_heads.size(), 1);
    EXPECT_GE(s.kv_heads.begin, 0);
    EXPECT_LE(s.kv_heads.end, c.n_kv_heads);
    ASSERT_EQ(static_cast<int64_t>(s.kv_head_of.size()), s.query_heads.size());
    std::set<int64_t> used;
    for (int64_t i = 0; i < s.query_heads.size(); ++i) {
      const int64_t local = s.kv_head_of[static_cast<size_t>(i)];
      EXPECT_GE(local, 0);
      EXPECT_LT(local, s.kv_heads.size());
      EXPECT_EQ(s.kv_heads.begin + local, (s.query_heads.begin + i) / group);
      used.insert(local);
    }
    EXPECT_EQ(static_cast<int64_t>(used.size()), s.kv_heads.size()) << "a KV head nobody reads";
    for (int64_t h = s.kv_heads.begin; h < s.kv_heads.end; ++h) kv_seen.insert(h);
  }
  EXPECT_EQ(static_cast<int32_t>(kv_seen.size()), c.n_kv_heads);
}

TEST(Shard, EveryConfigurationIsPartitioned) {
  int checked = 0;
  for (const int32_t kv : {1, 2, 3, 4, 5, 7, 8, 16}) {
    for (const int32_t group : {1, 2, 3, 4, 6, 7, 8}) {
      for (const int32_t ffn : {1, 31, 96, 1536, 1600, 14336, 11008}) {
        for (const int32_t vocab : {1, 32, 320, 32003, 49152, 128256}) {
          for (const int64_t block : {1, 32, 256}) {
            const ModelConfig c = make_config(kv * group, kv, ffn, vocab);
            for (int32_t n = 1; n <= std::min(8, c.n_heads); ++n) {
              SCOPED_TRACE(::testing::Message() << kv << "x" << group << " ffn " << ffn << " vocab "
                                                << vocab << " block " << block << " n " << n);
              const std::vector<Shard> shards = all_shards(c, block, n);
              expect_partition(shards, &Shard::query_heads, c.n_heads);
              expect_partition(shards, &Shard::ffn, ffn);
              expect_partition(shards, &Shard::vocab, vocab);
              expect_multiples(shards, &Shard::ffn, ffn, block);
              expect_multiples(shards, &Shard::vocab, vocab, 32);
              expect_attention(shards, c);
              if (n <= kv) expect_partition(shards, &Shard::kv_heads, kv);
              if (::testing::Test::HasFailure()) return;
              ++checked;
            }
          }
        }
      }
    }
  }
  EXPECT_GT(checked, 40000);
}

TEST(Shard, ThreeKvHeadsOnTwoRanksAreTwoAndOne) {
  const ModelConfig c = make_config(9, 3, 1536, 49152);
  const Shard a = make_shard(c, 32, 0, 2);
  const Shard b = make_shard(c, 32, 1, 2);
  EXPECT_EQ(a.kv_heads.size(), 2);
  EXPECT_EQ(a.query_heads.end, 6);
  EXPECT_EQ(a.kv_head_of, (std::vector<int32_t>{0, 0, 0, 1, 1, 1}));
  EXPECT_EQ(b.kv_heads.begin, 2);
  EXPECT_EQ(b.kv_head_of, (std::vector<int32_t>{0, 0, 0}));
  EXPECT_EQ(a.ffn.size(), 768);
  EXPECT_EQ(b.vocab.begin, 24576);
}

TEST(Shard, MoreRanksThanKvHeadsReplicateThem) {
  const ModelConfig c = make_config(9, 3, 1536, 49152);
  const std::vector<Shard> s = all_shards(c, 32, 4);
  EXPECT_EQ(s[0].kv_heads.begin, 0);
  EXPECT_EQ(s[1].kv_heads.begin, 0);  // the first KV head twice
  EXPECT_EQ(s[0].query_heads.size(), 2);
  EXPECT_EQ(s[1].query_heads.size(), 1);
  EXPECT_EQ(s[2].kv_heads.begin, 1);
  EXPECT_EQ(s[2].query_heads.size(), 3);
  EXPECT_EQ(s[3].kv_heads.begin, 2);
}

TEST(Shard, OneRankOwnsEverything) {
  const Shard s = make_shard(make_config(8, 2, 100, 77), 32, 0, 1);
  EXPECT_EQ(s.query_heads.size(), 8);
  EXPECT_EQ(s.kv_heads.size(), 2);
  EXPECT_EQ(s.ffn.size(), 100);
  EXPECT_EQ(s.vocab.size(), 77);
}

TEST(ShardDeathTest, MoreRanksThanHeadsIsABrokenInvariant) {
  EXPECT_DEATH(make_shard(make_config(2, 1, 64, 64), 32, 0, 3), "check failed");
}

}  // namespace
}  // namespace troupe
