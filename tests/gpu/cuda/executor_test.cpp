#include "gpu/cuda/executor.h"

#include "gpu/communicator.h"
#include "nccl/communicators.h"
#include "tests/support/cuda_device.h"
#include "tests/support/step_script.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace troupe {
namespace {

constexpr int32_t kSlots = 2048;
constexpr int32_t kRows = 12;

/// A model whose logits have a standard deviation near one.
test::TinyModel tiny(const std::string& architecture) {
  test::TinyModel m;
  m.architecture = architecture;
  m.layers = 3;
  m.hidden = 256;
  m.heads = 4;
  m.kv_heads = 2;
  m.head_dim = 64;
  m.ffn = 384;
  m.vocab = 1000;
  m.context = 512;
  m.tied = false;
  return m;
}

std::vector<int32_t> prompt(int32_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> out(static_cast<size_t>(n));
  for (int32_t& t : out) t = static_cast<int32_t>(random() % 1000);
  return out;
}

SamplingParams sampling(float temperature, uint64_t seed = 1) {
  SamplingParams p;
  p.temperature = temperature;
  p.seed = seed;
  p.n_logprobs = 10;
  return p;
}

class CudaExecutorTest : public test::CudaTest {
 protected:
  std::unique_ptr<Checkpoint> checkpoint(const test::TinyModel& m) {
    const std::string path = directory_.path() + "/" + m.architecture;
    test::write_tiny_hf(m, path, DType::kBF16);
    auto opened = Checkpoint::open(path);
    EXPECT_TRUE(opened.ok()) << opened.error().message;
    return std::move(opened).value();
  }

  static ExecutorOptions options(DeviceKind device) {
    ExecutorOptions o;
    o.device = device;
    o.n_slots = kSlots;
    o.max_rows = kRows;
    o.max_step_tokens = 128;
    if (device == DeviceKind::kCpu) {
      o.weights = WeightMode::kExact;
      o.kv = DType::kF32;
    }
    return o;
  }

  static std::vector<StepResult> run_cuda(const Checkpoint& checkpoint,
                                          const std::vector<StepPlan>& plans,
                                          cuda::Variant variant = {},
                                          const ExecutorOptions& o = options(DeviceKind::kCuda),
                                          bool ahead = true) {
    variant.tune =
        false;  // timing may choose other kernels, with other roundings, for the next run
    const auto communicator = make_single_communicator();
    auto made = cuda::make_executor(checkpoint, o, *communicator, variant);
    EXPECT_TRUE(made.ok()) << made.error().message;
    if (!made.ok()) return {};
    std::vector<StepResult> results;
    size_t enqueued = 0;
    while (results.size() < plans.size()) {
      const size_t limit = results.size() + (ahead ? Executor::kMaxEnqueued : 1);
      while (enqueued < std::min(limit, plans.size())) (*made)->enqueue(plans[enqueued++]);
      results.push_back((*made)->collect());
    }
    return results;
  }

  static std::vector<StepResult> run_cpu(const Checkpoint& checkpoint,
                                         const std::vector<StepPlan>& plans) {
    const auto communicator = make_single_communicator();
    auto made = Executor::create(checkpoint, options(DeviceKind::kCpu), *communicator);
    EXPECT_TRUE(made.ok()) << made.error().message;
    std::vector<StepResult> results;
    results.reserve(plans.size());
    for (const StepPlan& plan : plans) results.push_back((*made)->run(plan));
    return results;
  }

  /// Rows of several lengths that prefill in chunks beside decoding neighbours, then decode.
  static std::vector<StepPlan> busy_plans(float temperature, uint32_t shuffle = 0,
                                          const std::vector<int32_t>& row_of = {0, 1, 2, 3, 4}) {
    test::StepScript script(kSlots, shuffle);
    std::vector<int32_t> decoding;
    constexpr int32_t kLengths[] = {1, 17, 64, 100, 130};
    for (size_t i = 0; i < std::size(kLengths); ++i) {
      const int32_t n = kLengths[i];
      const std::vector<int32_t> p = prompt(n, 10 + static_cast<uint32_t>(i));
      for (int32_t at = 0; at < n; at += 48) {
        const int32_t part = std::min(48, n - at);
        script.begin_step();
        for (const int32_t row : decoding) script.decode(row);
        if (at == 0) script.open(row_of[i], n, sampling(temperature, i));
        script.feed(row_of[i],
                    std::span(p).subspan(static_cast<size_t>(at), static_cast<size_t>(part)),
                    at + part == n);
      }
      decoding.push_back(row_of[i]);
    }
    for (int32_t step = 0; step < 20; ++step) {
      script.begin_step();
      if (step == 10) {
        script.close(decoding.front());
        decoding.erase(decoding.begin());
      }
      for (const int32_t row : decoding) script.decode(row);
    }
    return script.plans();
  }

  /// Bitwise, rows renamed by `renamed` (identity when empty), order within a step included.
  static void expect_equal(const std::vector<StepResult>& a, const std::vector<StepResult>& b,
                           const std::map<int32_t, int32_t>& renamed = {}) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t s = 0; s < a.size(); ++s) {
      ASSERT_EQ(a[s].sampled.size(), b[s].sampled.size()) << "step " << s;
      for (size_t i = 0; i < a[s].sampled.size(); ++i) {
        const SampledToken& x = a[s].sampled[i];
        const SampledToken& y = b[s].sampled[i];
        ASSERT_EQ(renamed.empty() ? x.row : renamed.at(x.row), y.row) << "step " << s;
        ASSERT_EQ(x.token, y.token) << "step " << s << " row " << x.row;
        ASSERT_EQ(x.logprob, y.logprob) << "step " << s << " row " << x.row;
        ASSERT_EQ(x.top.size(), y.top.size());
        for (size_t k = 0; k < x.top.size(); ++k) {
          ASSERT_EQ(x.top[k].token, y.top[k].token) << "step " << s << " row " << x.row;
          ASSERT_EQ(x.top[k].logprob, y.top[k].logprob) << "step " << s << " row " << x.row;
        }
      }
    }
  }

  test::TempDir directory_;
};

class CudaFamily : public CudaExecutorTest, public ::testing::WithParamInterface<const char*> {};

/// Tokens are given, so that one early difference does not change everything after it.
TEST_P(CudaFamily, ClosenessToExactCpu) {
  const auto model = checkpoint(tiny(GetParam()));
  test::StepScript script(kSlots, 3);
  const std::vector<int32_t> text = prompt(160, 5);
  for (int32_t row = 0; row < 3; ++row) {
    const int32_t n = 1 + row * 40;
    script.begin_step();
    script.open(row, n, sampling(0.0F));
    script.feed(row, std::span(text).first(static_cast<size_t>(n)), true);
  }
  for (size_t step = 0; step < 40; ++step) {
    script.begin_step();
    for (int32_t row = 0; row < 3; ++row)
      script.feed(row, std::span(text).subspan(100 + step, 1), true);
  }
  const auto cpu = run_cpu(*model, script.plans());
  const auto gpu = run_cuda(*model, script.plans());
  ASSERT_EQ(cpu.size(), gpu.size());
  int32_t same = 0;
  int32_t all = 0;
  double squares = 0;
  int32_t compared = 0;
  for (size_t s = 0; s < cpu.size(); ++s) {
    ASSERT_EQ(cpu[s].sampled.size(), gpu[s].sampled.size());
    for (size_t i = 0; i < cpu[s].sampled.size(); ++i) {
      const SampledToken& c = cpu[s].sampled[i];
      const SampledToken& g = gpu[s].sampled[i];
      ASSERT_EQ(c.row, g.row);
      ASSERT_FALSE(g.failed);
      ++all;
      same += c.token == g.token ? 1 : 0;
      std::map<int32_t, float> by_token;
      for (const TokenLogprob& t : g.top) by_token[t.token] = t.logprob;
      for (const TokenLogprob& t : c.top) {
        const auto found = by_token.find(t.token);
        if (found == by_token.end()) continue;
        squares += std::pow(double{t.logprob} - double{found->second}, 2);
        ++compared;
      }
    }
  }
  EXPECT_GE(same, all * 95 / 100) << same << " of " << all;
  EXPECT_GT(compared, all * 8) << "the ten best are mostly the same";
  const double rms = std::sqrt(squares / compared);
  RecordProperty("rms", std::to_string(rms));
  EXPECT_LT(rms, 3e-2);  // logits have a standard deviation of one
}

INSTANTIATE_TEST_SUITE_P(Families, CudaFamily,
                         ::testing::Values("llama", "mistral", "qwen2", "qwen3"),
                         [](const auto& family) { return std::string(family.param); });

TEST_F(CudaExecutorTest, GraphReplayEqualsEager) {
  const auto model = checkpoint(tiny("llama"));
  for (const float temperature : {0.0F, 1.0F}) {
    const auto plans = busy_plans(temperature);
    cuda::Variant eager;
    eager.graphs = false;
    expect_equal(run_cuda(*model, plans), run_cuda(*model, plans, eager));
  }
}

TEST_F(CudaExecutorTest, RunningAheadChangesNothing) {
  const auto model = checkpoint(tiny("llama"));
  const auto plans = busy_plans(1.0F);
  expect_equal(run_cuda(*model, plans),
               run_cuda(*model, plans, {}, options(DeviceKind::kCuda), false));
}

TEST_F(CudaExecutorTest, SlotNumbersDoNotMatter) {
  const auto model = checkpoint(tiny("qwen3"));
  expect_equal(run_cuda(*model, busy_plans(1.0F)), run_cuda(*model, busy_plans(1.0F, 77)));
}

TEST_F(CudaExecutorTest, RowNumbersDoNotMatter) {
  const auto model = checkpoint(tiny("llama"));
  cuda::Variant invariant;
  invariant.batch_invariant = true;
  expect_equal(run_cuda(*model, busy_plans(1.0F), invariant),
               run_cuda(*model, busy_plans(1.0F, 0, {9, 4, 0, 11, 1}), invariant),
               {{0, 9}, {1, 4}, {2, 0}, {3, 11}, {4, 1}});
}

TEST_F(CudaExecutorTest, NeighboursInOtherOrderDoNotMatterInInvariantMode) {
  const auto model = checkpoint(tiny("llama"));
  cuda::Variant invariant;
  invariant.batch_invariant = true;
  const auto plans = [](bool backwards) {
    test::StepScript script(kSlots);
    for (int32_t row = 0; row < 8; ++row) {
      const auto p = prompt(10 + 9 * row, static_cast<uint32_t>(row));
      script.begin_step();
      script.open(row, static_cast<int32_t>(p.size()), sampling(1.0F, 3));
      script.feed(row, p, true);
    }
    for (int32_t step = 0; step < 12; ++step) {
      script.begin_step();
      for (int32_t i = 0; i < 8; ++i) script.decode(backwards ? 7 - i : i);
    }
    return script.plans();
  };
  const auto forwards = run_cuda(*model, plans(false), invariant);
  auto backwards = run_cuda(*model, plans(true), invariant);
  for (size_t s = 8; s < backwards.size(); ++s)
    std::reverse(backwards[s].sampled.begin(), backwards[s].sampled.end());
  expect_equal(forwards, backwards);
}

/// A row that comes back with its prefix in the pool goes on as if it had stayed.
TEST_F(CudaExecutorTest, CachedPrefixGoesOn) {
  const auto model = checkpoint(tiny("llama"));
  const auto p = prompt(30, 4);
  test::StepScript script(kSlots, 5);
  script.begin_step();
  script.open(0, 30, sampling(0.0F));
  script.feed(0, p, true);
  script.begin_step();
  script.decode(0);
  auto plans = script.plans();
  // The same prompt in another row, of which all but the last token are in the pool.
  StepPlan again = {1, 3, {}, {}, {}, {}, {}};
  const auto& slots = plans[0].slots;
  again.opened.push_back({3, 30, sampling(0.0F),
                          std::vector<int32_t>(slots.begin(), slots.end() - 1),
                          std::vector<int32_t>(p.begin(), p.end() - 1)});
  again.work.push_back({3, 1, false, true});
  again.tokens = {p.back()};
  again.slots = {1};
  if (std::find(slots.begin(), slots.end(), 1) != slots.end()) again.slots = {0};
  plans.push_back(again);
  const auto results = run_cuda(*model, plans);
  ASSERT_EQ(results.size(), 3U);
  EXPECT_EQ(results[2].sampled[0].token, results[0].sampled[0].token);
  EXPECT_NEAR(results[2].sampled[0].logprob, results[0].sampled[0].logprob, 3e-2);
}

TEST_F(CudaExecutorTest, Fp8StaysClose) {
  const auto model = checkpoint(tiny("llama"));
  const auto plans = busy_plans(0.0F);
  ExecutorOptions fp8 = options(DeviceKind::kCuda);
  fp8.fp8_weights = true;
  fp8.fp8_kv = true;
  const auto exact = run_cuda(*model, plans);
  const auto coarse = run_cuda(*model, plans, {}, fp8);
  ASSERT_EQ(exact.size(), coarse.size());
  // Only first tokens: what follows them may differ for good.
  std::map<int32_t, bool> seen;
  for (size_t s = 0; s < exact.size(); ++s)
    for (size_t i = 0; i < exact[s].sampled.size(); ++i) {
      const SampledToken& x = exact[s].sampled[i];
      const SampledToken& y = coarse[s].sampled[i];
      ASSERT_FALSE(y.failed);
      if (std::exchange(seen[x.row], true)) continue;
      EXPECT_NEAR(x.top[0].logprob, y.top[0].logprob, 0.3) << "row " << x.row;
    }
}

TEST_F(CudaExecutorTest, PoolTakesWhatIsLeft) {
  const auto model = checkpoint(tiny("llama"));
  ExecutorOptions o = options(DeviceKind::kCuda);
  o.n_slots = 0;
  const auto communicator = make_single_communicator();
  auto made = cuda::make_executor(*model, o, *communicator);
  ASSERT_TRUE(made.ok()) << made.error().message;
  EXPECT_EQ((*made)->n_slots(), kRows * 512);  // all that the rows can use
  EXPECT_GT((*made)->memory().kv, 0);
}

TEST_F(CudaExecutorTest, TooLargePoolIsRefusedWithNumbers) {
  const auto model = checkpoint(tiny("llama"));
  ExecutorOptions o = options(DeviceKind::kCuda);
  o.n_slots = 1 << 30;
  const auto communicator = make_single_communicator();
  const auto made = cuda::make_executor(*model, o, *communicator);
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, ErrorCode::kOutOfMemory);
  EXPECT_NE(made.error().message.find("lower --kv-tokens to at most "), std::string::npos)
      << made.error().message;
}

TEST_F(CudaExecutorTest, UnsupportedHeadSizeIsRefused) {
  test::TinyModel m = tiny("llama");
  m.head_dim = 32;
  const auto model = checkpoint(m);
  const auto communicator = make_single_communicator();
  const auto made = cuda::make_executor(*model, options(DeviceKind::kCuda), *communicator);
  ASSERT_FALSE(made.ok());
  EXPECT_NE(made.error().message.find("heads of 32"), std::string::npos) << made.error().message;
}

}  // namespace
}  // namespace troupe
