#include "tests/gpu/cuda/attention_support.cuh"

#include <string>
#include <tuple>

namespace troupe::cuda::test {
namespace {

struct Length {
  int32_t tokens;
  int32_t context;
};

/// A step of chunks with a gap of one foreign token after each, which must stay as it was.
struct Step {
  Step(Problem& p, const std::vector<Length>& lengths) {
    p.length.clear();
    int64_t used = 1;
    for (const Length& l : lengths) {
      chunks.push_back({static_cast<int32_t>(chunks.size()), n_tokens, l.tokens, l.context});
      p.length.push_back(l.context);
      n_tokens += l.tokens + 1;
      used += l.context;
    }
    p.n_slots = used + 100;
    q = upload(queries(p, Pool::identity(static_cast<size_t>(n_tokens))));
    out = DeviceBuffer<__nv_bfloat16>(p.q_size(n_tokens));
  }

  void poison() const { TROUPE_CUDA(cudaMemset(out.data(), 0xff, out.bytes())); }
  std::vector<__nv_bfloat16> run(PrefillAttention& attention, const Problem& p, const Pool& pool,
                                 int32_t window = 0) const {
    poison();
    attention.plan(chunks, pool.table(), nullptr);
    attention.run(out.data(), q.data(), pool.layer(), p.scale(), window, nullptr);
    TROUPE_CUDA(cudaDeviceSynchronize());
    return download(out);
  }
  std::vector<__nv_bfloat16> oracle(const Problem& p, const Pool& pool, int32_t window) const {
    std::vector<int32_t> token;
    std::vector<int32_t> row;
    std::vector<int32_t> context;
    for (const Chunk& c : chunks) {
      for (int32_t i = 0; i < c.n_tokens; ++i) {
        token.push_back(c.token_begin + i);
        row.push_back(c.row);
        context.push_back(c.context - c.n_tokens + i + 1);
      }
    }
    const auto tokens = upload(token);
    const auto rows = upload(row);
    const auto contexts = upload(context);
    poison();
    simple_attention(out.data(), q.data(), pool.layer(), p.shape,
                     {static_cast<int32_t>(token.size()), tokens.data(), rows.data(),
                      contexts.data(), pool.table()},
                     p.scale(), window, nullptr);
    TROUPE_CUDA(cudaDeviceSynchronize());
    return download(out);
  }

  std::vector<Chunk> chunks;
  int32_t n_tokens = 0;
  DeviceBuffer<__nv_bfloat16> q;
  DeviceBuffer<__nv_bfloat16> out;
};

/// Every token against the textbook kernel, a few against fp64; foreign tokens untouched.
void check(const Problem& p, const Step& step, const Pool& pool,
           const std::vector<__nv_bfloat16>& out, int32_t window) {
  const size_t width = p.q_size(1);
  const auto expected = step.oracle(p, pool, window);
  const auto q = download(step.q);
  double worst = 0;
  double worst_fp64 = 0;
  std::string where;
  for (const Chunk& c : step.chunks) {
    for (int32_t i = 0; i < c.n_tokens; ++i) {
      const size_t at = static_cast<size_t>(c.token_begin + i) * width;
      const double d = distance(&out[at], &expected[at], width);
      if (!(d <= worst)) {
        worst = d;
        where = "chunk " + std::to_string(c.row) + " token " + std::to_string(i);
        if (d != d) break;
      }
      if ((i != c.n_tokens / 2 && i != c.n_tokens - 1) || c.context > 1000) continue;
      const auto ref = reference(p, &q[at], c.row, c.context - c.n_tokens + i + 1, window);
      worst_fp64 = std::max(worst_fp64, distance(&out[at], ref.data(), width));
    }
    const size_t foreign = static_cast<size_t>(c.token_begin + c.n_tokens) * width;
    for (size_t e = 0; e < width; ++e) {
      uint16_t bits = 0;
      std::memcpy(&bits, &out[foreign + e], sizeof bits);
      ASSERT_EQ(bits, 0xffff) << "the token after chunk " << c.row << " was written";
    }
  }
  EXPECT_TRUE(worst <= 4e-3) << worst << " at " << where << " window " << window;
  EXPECT_TRUE(worst_fp64 <= tolerance(p.format)) << worst_fp64 << " window " << window;
  std::printf("  distance %.2e %.2e\n", worst_fp64, worst);
}

using Case = std::tuple<int32_t, int32_t, KvFormat>;  // group, head_dim, format
std::string name_of(const testing::TestParamInfo<Case>& info) {
  const auto [group, dim, format] = info.param;
  return "group" + std::to_string(group) + "_dim" + std::to_string(dim) +
         (format == KvFormat::kFp8 ? "_fp8" : "_bf16");
}

class CudaPrefillAttention : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    TROUPE_SKIP_WITHOUT_GPU();
    const auto [group, dim, format] = GetParam();
    p.shape = {2 * group, 2, dim};
    p.format = format;
  }
  Problem p;
};

TEST_P(CudaPrefillAttention, EqualsTheOraclesAtEveryEdgeLength) {
  const Step step(p, {{1, 1},
                      {15, 15},
                      {16, 16},
                      {17, 17},
                      {63, 63},
                      {64, 64},
                      {65, 65},
                      {127, 127},
                      {128, 128},
                      {129, 129},
                      {300, 300},
                      {1, 128},
                      {1, 129},
                      {2, 1000},
                      {33, 161},
                      {64, 512},
                      {130, 777},
                      {0, 5}});
  const Pool pool(p);
  PrefillAttention attention(p.shape, p.format, step.n_tokens, 1000);
  check(p, step, pool, step.run(attention, p, pool), 0);
}

TEST_P(CudaPrefillAttention, WindowHidesWhatIsBeforeIt) {
  const Step step(p, {{1, 700}, {40, 40}, {200, 200}, {130, 777}, {64, 1500}});
  const Pool pool(p);
  PrefillAttention attention(p.shape, p.format, step.n_tokens, 1500);
  for (const int32_t window : {1, 17, 128, 600}) {
    SCOPED_TRACE(window);
    check(p, step, pool, step.run(attention, p, pool, window), window);
  }
}

TEST_P(CudaPrefillAttention, LongContextsAreSplitAndMerged) {
  const int32_t group = std::get<0>(GetParam());
  if (group != 1 && group != 4 && group != 7) GTEST_SKIP() << "covered by the other groups";
  const Step step(p, {{3, 9000}, {20, 5000}, {70, 70}});
  const Pool pool(p);
  PrefillAttention attention(p.shape, p.format, step.n_tokens, 9000);
  check(p, step, pool, step.run(attention, p, pool), 0);
  check(p, step, pool, step.run(attention, p, pool, 300), 300);
}

TEST_P(CudaPrefillAttention, RoundsWhenTheCopiesDoNotFitTogether) {
  const int32_t group = std::get<0>(GetParam());
  if (group != 4) GTEST_SKIP() << "covered by group 4";
  const Step step(p, {{3, 20000}, {20, 10000}, {70, 70}, {1, 30000}, {40, 640}});
  const Pool pool(p);
  PrefillAttention attention(p.shape, p.format, step.n_tokens, 30000);  // 32,768 are held
  check(p, step, pool, step.run(attention, p, pool), 0);
}

TEST_P(CudaPrefillAttention, RepeatsBitwiseWhateverTheSlots) {
  std::vector<__nv_bfloat16> first;
  for (const uint32_t seed : {1U, 2U}) {
    p.seed = seed;
    const Step step(p, {{300, 300}, {20, 1000}, {1, 3000}});
    const Pool pool(p);
    PrefillAttention attention(p.shape, p.format, step.n_tokens, 3000);
    for (int repeat = 0; repeat < 3; ++repeat) {
      const auto out = step.run(attention, p, pool);
      if (first.empty()) first = out;
      EXPECT_TRUE(bitwise_equal(out, first)) << "seed " << seed << " repeat " << repeat;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaPrefillAttention,
                         testing::Combine(testing::Values(1, 2, 3, 4, 5, 6, 7, 8, 12, 16),
                                          testing::Values(64, 128),
                                          testing::Values(KvFormat::kBf16, KvFormat::kFp8)),
                         name_of);

TEST(CudaPrefillAttentionLarge, ManyItemsABlock) {
  TROUPE_SKIP_WITHOUT_GPU();
  Problem p;
  p.shape = {16, 4, 128};
  const Step step(p, {{4000, 4000}, {1500, 3000}, {1, 6000}});
  const Pool pool(p);
  PrefillAttention attention(p.shape, p.format, step.n_tokens, 6000);
  check(p, step, pool, step.run(attention, p, pool), 0);
}

TEST(CudaPrefillAttentionLarge, SlotsBeyondTwoToThe21) {
  TROUPE_SKIP_WITHOUT_GPU();
  Problem p;
  p.shape = {8, 2, 128};
  const Step step(p, {{300, 500}});
  p.n_slots = (int64_t{1} << 21) + (int64_t{1} << 20);
  const Pool pool(p);
  PrefillAttention attention(p.shape, p.format, step.n_tokens, 500);
  check(p, step, pool, step.run(attention, p, pool), 0);
}

}  // namespace
}  // namespace troupe::cuda::test
