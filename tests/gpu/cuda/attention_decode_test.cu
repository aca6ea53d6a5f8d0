#include "tests/gpu/cuda/attention_support.cuh"

#include <string>
#include <tuple>

namespace troupe::cuda::test {
namespace {

constexpr uint16_t kPoison = 0xffff;  // NaN as bf16: what an unwritten output holds

/// A decode batch on the device: token i has the context lengths[i] of row i.
struct Batch {
  Batch(const Problem& p, const Pool& pool, const std::vector<int32_t>& row,
        const std::vector<int32_t>& context, const std::vector<int32_t>& names)
      : row_(upload(row)),
        context_(upload(context)),
        q(upload(queries(p, names))),
        out(p.q_size(static_cast<int32_t>(row.size()))) {
    batch = {static_cast<int32_t>(row.size()), row_.data(), context_.data(), pool.table()};
  }
  Batch(const Problem& p, const Pool& pool)
      : Batch(p, pool, Pool::identity(p.length.size()), p.length, Pool::identity(p.length.size())) {
  }

  void poison(cudaStream_t stream = nullptr) const {
    TROUPE_CUDA(cudaMemsetAsync(out.data(), 0xff, out.bytes(), stream));
  }
  std::vector<__nv_bfloat16> run(DecodeAttention& attention, const Problem& p, const Pool& pool,
                                 int32_t window = 0, int32_t plan_window = 0) const {
    poison();
    attention.plan(batch, nullptr, plan_window);
    attention.run(out.data(), q.data(), pool.layer(), batch, p.scale(), window, nullptr);
    TROUPE_CUDA(cudaDeviceSynchronize());
    return download(out);
  }
  std::vector<__nv_bfloat16> oracle(const Problem& p, const Pool& pool, int32_t window = 0) const {
    DeviceBuffer<__nv_bfloat16> to(out.size());
    TROUPE_CUDA(cudaMemset(to.data(), 0xff, to.bytes()));
    simple_attention(to.data(), q.data(), pool.layer(), p.shape,
                     {batch.n_rows, nullptr, batch.row, batch.context, batch.slots}, p.scale(),
                     window, nullptr);
    TROUPE_CUDA(cudaDeviceSynchronize());
    return download(to);
  }

  DeviceBuffer<int32_t> row_;
  DeviceBuffer<int32_t> context_;
  DeviceBuffer<__nv_bfloat16> q;
  DeviceBuffer<__nv_bfloat16> out;
  DecodeBatch batch;
};

/// Largest distance of a row; padding rows must be untouched.
template <class Reference>
double worst(const Problem& p, const std::vector<__nv_bfloat16>& out, const Reference& reference) {
  const size_t width = p.q_size(1);
  double worst = 0;
  for (size_t r = 0; r < p.length.size(); ++r) {
    if (p.length[r] == 0) {
      for (size_t e = 0; e < width; ++e) {
        uint16_t bits = 0;
        std::memcpy(&bits, &out[r * width + e], sizeof bits);
        if (bits != kPoison) ADD_FAILURE() << "padding row " << r << " was written";
        if (bits != kPoison) return INFINITY;
      }
      continue;
    }
    const auto ref = reference(r);
    const double d = distance(out.data() + r * width, ref.data(), width);
    if (!(d <= worst)) worst = d;  // NaN is kept
  }
  return worst;
}

using Case = std::tuple<int32_t, int32_t, KvFormat, bool>;  // group, head_dim, format, invariant
std::string name_of(const testing::TestParamInfo<Case>& info) {
  const auto [group, dim, format, invariant] = info.param;
  return "group" + std::to_string(group) + "_dim" + std::to_string(dim) +
         (format == KvFormat::kFp8 ? "_fp8" : "_bf16") + (invariant ? "_invariant" : "");
}

class CudaDecodeAttention : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    TROUPE_SKIP_WITHOUT_GPU();
    const auto [group, dim, format, invariant] = GetParam();
    p.shape = {2 * group, 2, dim};
    p.format = format;
    options.batch_invariant = invariant;
  }
  Problem p;
  DecodeAttention::Options options;
};

TEST_P(CudaDecodeAttention, EqualsFp64AtEveryEdgeLength) {
  p.length = {1,  0,  15, 16,  17,  31,  32,  33,  63,  64, 65,
              95, 96, 97, 127, 128, 129, 255, 256, 257, 0,  700};
  p.n_slots = 4096;
  const Pool pool(p);
  const Batch b(p, pool);
  DecodeAttention attention(p.shape, p.format, options);
  const auto out = b.run(attention, p, pool);
  const auto q = queries(p, Pool::identity(p.length.size()));
  const double d = worst(p, out, [&](size_t r) {
    return reference(p, q.data() + r * p.q_size(1), static_cast<int32_t>(r), p.length[r], 0);
  });
  EXPECT_TRUE(d <= tolerance(p.format)) << d;
  std::printf("  distance %.2e\n", d);
}

TEST_P(CudaDecodeAttention, WindowHidesWhatIsBeforeIt) {
  p.length = {1, 5, 64, 65, 130, 0, 513, 900};
  p.n_slots = 4096;
  const Pool pool(p);
  const Batch b(p, pool);
  DecodeAttention attention(p.shape, p.format, options);
  const auto q = queries(p, Pool::identity(p.length.size()));
  for (const int32_t window : {1, 17, 128, 600}) {
    for (const int32_t planned : {0, window, 700}) {
      const auto out = b.run(attention, p, pool, window, planned);
      const double d = worst(p, out, [&](size_t r) {
        return reference(p, q.data() + r * p.q_size(1), static_cast<int32_t>(r), p.length[r],
                         window);
      });
      EXPECT_TRUE(d <= tolerance(p.format)) << d << " window " << window << " planned " << planned;
    }
  }
}

TEST_P(CudaDecodeAttention, OneLongRowAmongShortOnes) {
  const auto [group, dim, format, invariant] = GetParam();
  if (group != 4 && group != 12) GTEST_SKIP() << "covered by the other groups";
  p.length.assign(256, 0);
  for (size_t r = 0; r < p.length.size(); ++r) p.length[r] = static_cast<int32_t>(1 + r * 37 % 200);
  p.length[77] = 131072;
  p.n_slots = 200000;
  const Pool pool(p);
  const Batch b(p, pool);
  DecodeAttention attention(p.shape, p.format, options);
  const auto out = b.run(attention, p, pool);
  const auto ref = b.oracle(p, pool);
  const size_t width = p.q_size(1);
  const double d = worst(p, out, [&](size_t r) {
    return std::vector<__nv_bfloat16>(ref.begin() + static_cast<int64_t>(r * width),
                                      ref.begin() + static_cast<int64_t>((r + 1) * width));
  });
  EXPECT_TRUE(d <= 4e-3) << d;  // two results, both rounded to bf16
}

TEST_P(CudaDecodeAttention, SlotNumbersDoNotMatter) {
  p.length = {300, 1, 2000, 64, 0, 777, 90, 33};
  p.n_slots = 8192;
  DecodeAttention attention(p.shape, p.format, options);
  std::vector<__nv_bfloat16> first;
  for (const uint32_t seed : {1U, 2U, 3U}) {
    p.seed = seed;
    const Pool pool(p);
    const Batch b(p, pool);
    for (int repeat = 0; repeat < 3; ++repeat) {
      const auto out = b.run(attention, p, pool);
      if (first.empty()) first = out;
      EXPECT_TRUE(bitwise_equal(out, first)) << "seed " << seed << " repeat " << repeat;
    }
  }
}

TEST_P(CudaDecodeAttention, InvariantModeIgnoresNeighbours) {
  if (!options.batch_invariant) GTEST_SKIP() << "the other mode promises it";
  p.length = {300, 1, 2000, 64, 0, 9000, 90, 33};
  p.n_slots = 16384;
  const Pool pool(p);
  DecodeAttention attention(p.shape, p.format, options);
  const Batch all(p, pool);
  const auto together = all.run(attention, p, pool);
  const size_t width = p.q_size(1);
  const std::vector<int32_t> order = {5, 0, 7, 2, 6, 1, 3, 4};
  std::vector<int32_t> context;
  for (const int32_t r : order) context.push_back(p.length[static_cast<size_t>(r)]);
  const auto permuted = Batch(p, pool, order, context, order).run(attention, p, pool);
  for (size_t i = 0; i < order.size(); ++i) {
    const auto r = static_cast<size_t>(order[i]);
    EXPECT_EQ(std::memcmp(&permuted[i * width], &together[r * width], width * 2), 0) << r;
    if (p.length[r] == 0) continue;
    const auto alone =
        Batch(p, pool, {order[i]}, {p.length[r]}, {order[i]}).run(attention, p, pool);
    EXPECT_EQ(std::memcmp(alone.data(), &together[r * width], width * 2), 0) << r << " alone";
  }
}

TEST_P(CudaDecodeAttention, GraphReplayEqualsEagerForAnyLengths) {
  p.length = {300, 1, 2000, 64, 3, 777, 90, 33};
  p.n_slots = 8192;
  const Pool pool(p);
  const Batch b(p, pool);
  DecodeAttention attention(p.shape, p.format, options);
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  TROUPE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  TROUPE_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  attention.plan(b.batch, stream);
  attention.run(b.out.data(), b.q.data(), pool.layer(), b.batch, p.scale(), 0, stream);
  TROUPE_CUDA(cudaStreamEndCapture(stream, &graph));
  TROUPE_CUDA(cudaGraphInstantiate(&exec, graph, 0));
  for (const std::vector<int32_t>& lengths : std::vector<std::vector<int32_t>>{
           p.length, {1, 0, 1999, 0, 0, 64, 65, 0}, {0, 0, 1, 0, 0, 0, 0, 0}, p.length}) {
    TROUPE_CUDA(
        cudaMemcpy(b.context_.data(), lengths.data(), lengths.size() * 4, cudaMemcpyHostToDevice));
    const auto eager = b.run(attention, p, pool);
    b.poison();
    TROUPE_CUDA(cudaDeviceSynchronize());
    TROUPE_CUDA(cudaGraphLaunch(exec, stream));
    TROUPE_CUDA(cudaStreamSynchronize(stream));
    EXPECT_TRUE(bitwise_equal(download(b.out), eager));
  }
  TROUPE_CUDA(cudaGraphExecDestroy(exec));
  TROUPE_CUDA(cudaGraphDestroy(graph));
  TROUPE_CUDA(cudaStreamDestroy(stream));
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaDecodeAttention,
                         testing::Combine(testing::Values(1, 2, 3, 4, 5, 6, 7, 8, 12, 16),
                                          testing::Values(64, 128),
                                          testing::Values(KvFormat::kBf16, KvFormat::kFp8),
                                          testing::Bool()),
                         name_of);

TEST(CudaDecodeAttentionLarge, MoreRowsThanThePlanHasThreads) {
  TROUPE_SKIP_WITHOUT_GPU();
  Problem p;
  p.shape = {4, 2, 64};
  for (int32_t r = 0; r < 1300; ++r) p.length.push_back(r % 7 == 3 ? 0 : 1 + r * 131 % 200);
  p.length[1299] = 0;
  p.n_slots = 200000;
  const Pool pool(p);
  const Batch b(p, pool);
  const auto q = queries(p, Pool::identity(p.length.size()));
  for (const bool invariant : {false, true}) {
    DecodeAttention attention(p.shape, p.format, {.max_rows = 1300, .batch_invariant = invariant});
    const auto out = b.run(attention, p, pool);
    const double d = worst(p, out, [&](size_t r) {
      return reference(p, q.data() + r * p.q_size(1), static_cast<int32_t>(r), p.length[r], 0);
    });
    EXPECT_TRUE(d <= tolerance(p.format)) << d;
    std::printf("  distance %.2e\n", d);
  }
}

TEST(CudaDecodeAttentionLarge, SlotsBeyondTwoToThe21) {
  TROUPE_SKIP_WITHOUT_GPU();
  Problem p;
  p.shape = {8, 2, 128};
  p.length = {500, 64, 1, 1500};
  p.n_slots = (int64_t{1} << 21) + (int64_t{1} << 20);  // 3.2 GB, most slots above 2^21
  const Pool pool(p);
  const Batch b(p, pool);
  DecodeAttention attention(p.shape, p.format, {});
  const auto out = b.run(attention, p, pool);
  const auto q = queries(p, Pool::identity(p.length.size()));
  const double d = worst(p, out, [&](size_t r) {
    return reference(p, q.data() + r * p.q_size(1), static_cast<int32_t>(r), p.length[r], 0);
  });
  EXPECT_TRUE(d <= tolerance(p.format)) << d;
}

}  // namespace
}  // namespace troupe::cuda::test
