#include "gpu/cuda/executor.h"

#include "gpu/base/check.h"
#include "gpu/base/half.h"
#include "gpu/communicator.h"
#include "nccl/communicators.h"
#include "tests/gpu/cuda/fault.h"
#include "tests/gpu/quantised_tensor.h"
#include "tests/support/cuda_device.h"
#include "tests/support/step_script.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
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

/// Three rows of several lengths, then 40 steps; tokens are given, so that one early difference
/// does not change everything after it.
std::vector<StepPlan> given_plans() {
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
  return script.plans();
}

/// At least `share` % of the best tokens are the same; log-probabilities of the ten best ones
/// differ by at most `rms`.
void expect_close(const std::vector<StepResult>& cpu, const std::vector<StepResult>& gpu,
                  int32_t share, double rms, const std::string& what = "") {
  ASSERT_EQ(cpu.size(), gpu.size()) << what;
  int32_t same = 0;
  int32_t all = 0;
  double squares = 0;
  int32_t compared = 0;
  for (size_t s = 0; s < cpu.size(); ++s) {
    ASSERT_EQ(cpu[s].sampled.size(), gpu[s].sampled.size()) << what;
    for (size_t i = 0; i < cpu[s].sampled.size(); ++i) {
      const SampledToken& c = cpu[s].sampled[i];
      const SampledToken& g = gpu[s].sampled[i];
      ASSERT_EQ(c.row, g.row) << what;
      ASSERT_FALSE(g.failed) << what;
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
  const double measured = std::sqrt(squares / compared);
  std::printf("%s: %d of %d best tokens the same, rms %.4f\n", what.c_str(), same, all, measured);
  EXPECT_GE(same, all * share / 100) << what << ": " << same << " of " << all;
  EXPECT_GT(compared, all * 7) << what << ": the ten best are mostly the same";
  EXPECT_LT(measured, rms) << what;
}

TEST_P(CudaFamily, ClosenessToExactCpu) {
  const auto model = checkpoint(tiny(GetParam()));
  const auto plans = given_plans();
  // Logits have a standard deviation of one.
  expect_close(run_cpu(*model, plans), run_cuda(*model, plans), 95, 3e-2, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Families, CudaFamily,
                         ::testing::Values("llama", "mistral", "qwen2", "qwen3"),
                         [](const auto& family) { return std::string(family.param); });

/// Random blocks, every row scaled so that it keeps the variance of what it multiplies.
std::string random_blocks(const test::TinyTensor& t, DType type) {
  static uint32_t seed = 100;
  test::RandomTensor random(type, t.shape[0], t.shape[1], ++seed);
  for (int64_t r = 0; r < t.shape[0]; ++r) {
    double squares = 0;
    for (const float v : random.row(r, 0, t.shape[1])) squares += double{v} * double{v};
    if (squares > 0.0) random.scale_row(r, static_cast<float>(1.0 / std::sqrt(squares)));
  }
  return {reinterpret_cast<const char*>(random.bytes().data()), random.bytes().size()};
}

/// Blocks are expanded when they are loaded; the CPU multiplies them as they are.
TEST_F(CudaExecutorTest, GgufBlocksAreCloseToExactCpu) {
  for (const DType type : {DType::kF16, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                           DType::kQ8_0, DType::kQ4_K, DType::kQ6_K}) {
    test::TinyModel m = tiny(type == DType::kQ5_1 ? "qwen2" : "llama");
    m.ffn = 512;
    m.tied = type == DType::kQ6_K;
    const std::string name(to_string(type));
    const std::string path = directory_.path() + "/" + name + ".gguf";
    const bool blocks = block_elements(type) > 1;
    test::detail::write_bytes(
        path, test::tiny_gguf(m, type, blocks ? random_blocks : test::TinyEncoder()).bytes());
    const auto opened = Checkpoint::open(path);
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    const auto plans = given_plans();
    const auto cpu = run_cpu(**opened, plans);
    expect_close(cpu, run_cuda(**opened, plans), 95, 3e-2, name + " as bf16");
    ExecutorOptions fp8 = options(DeviceKind::kCuda);
    fp8.fp8_weights = true;
    // e4m3 rounds weights and activations by 2^-4 / sqrt(3) each, four times a layer, three layers.
    expect_close(cpu, run_cuda(**opened, plans, {}, fp8), 65, 0.2, name + " as fp8");
  }
}

/// A row whose values are not numbers fails alone.
TEST_F(CudaExecutorTest, ValuesThatAreNoNumbersFailTheirRowOnly) {
  const test::TinyModel m = tiny("llama");
  constexpr int32_t kPoison = 77;
  const std::string path = directory_.path() + "/poisoned";
  test::write_tiny_hf(m, path, DType::kBF16);
  test::SafetensorsWriter w;
  for (auto [name, t] : test::tiny_tensors(m)) {
    if (name == "embed_tokens.weight") t.values[size_t{kPoison} * 256 + 3] = INFINITY;
    w.tensor(name == "lm_head.weight" ? name : "model." + name, "BF16", t.shape,
             test::encode(t.values, DType::kBF16));
  }
  test::detail::write_bytes(path + "/model.safetensors", w.bytes());
  const auto opened = Checkpoint::open(path);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  test::StepScript script(kSlots);
  const std::vector<int32_t> good = {5, 6, 8, 9};
  const std::vector<int32_t> bad = {5, kPoison, 8, 9};
  for (int32_t row = 0; row < 3; ++row) {
    script.begin_step();
    script.open(row, 4, sampling(row == 2 ? 0.7F : 0.0F));
    script.feed(row, row == 1 ? bad : good, true);
  }
  for (int32_t step = 0; step < 5; ++step) {
    script.begin_step();
    for (int32_t row = 0; row < 3; ++row) script.decode(row);
  }
  for (const auto& result : run_cuda(**opened, script.plans())) {
    for (const SampledToken& t : result.sampled) {
      EXPECT_EQ(t.failed, t.row == 1) << "step " << result.step << " row " << t.row;
      EXPECT_GE(t.token, 0);
      EXPECT_LT(t.token, m.vocab);
    }
  }
}

TEST_F(CudaExecutorTest, TooLittleMemoryIsSaidWithTheNumbersAndHarmsNothing) {
  const auto model = checkpoint(tiny("llama"));
  const auto communicator = make_single_communicator();
  ExecutorOptions o = options(DeviceKind::kCuda);
  o.n_slots = 1'000'000'000;  // 1.5 KiB each
  cuda::Variant variant;
  variant.tune = false;
  const auto refused = cuda::make_executor(*model, o, *communicator, variant);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kOutOfMemory);
  const std::string& text = refused.error().message;
  std::printf("%s\n", text.c_str());
  for (const char* part : {"needs", "weights", "KV", "workspace", "free of", "--kv-tokens"})
    EXPECT_NE(text.find(part), std::string::npos) << part;
  // What would fit does fit.
  const size_t at = text.find("at most ");
  ASSERT_NE(at, std::string::npos);
  o.n_slots = std::stoi(text.substr(at + 8));
  const auto fits = cuda::make_executor(*model, o, *communicator, variant);
  EXPECT_TRUE(fits.ok()) << fits.error().message;
}

/// A sticky error ends the executor with a DeviceError that names the step, whichever call notices
/// it. In a process of its own, because the device is lost to it.
TEST(CudaExecutorDeathTest, AStickyErrorNamesTheStep) {
  int n = 0;
  if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) GTEST_SKIP() << "no CUDA device";
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto scenario = [] {
    const test::TempDir directory;
    const std::string path = directory.path() + "/llama";
    test::write_tiny_hf(tiny("llama"), path, DType::kBF16);
    const auto model = Checkpoint::open(path);
    const auto communicator = make_single_communicator();
    ExecutorOptions o;
    o.device = DeviceKind::kCuda;
    o.n_slots = kSlots;
    o.max_rows = kRows;
    o.max_step_tokens = 128;
    cuda::Variant variant;
    variant.tune = false;
    const auto made = cuda::make_executor(**model, o, *communicator, variant);
    test::StepScript script(kSlots);
    script.begin_step();
    script.open(0, 4, sampling(0.0F));
    script.feed(0, prompt(4, 1), true);
    for (int32_t step = 0; step < 3; ++step) {
      script.begin_step();
      script.decode(0);
    }
    size_t done = 0;
    try {
      for (const StepPlan& plan : script.plans()) {
        if (done == 2) test::fault_device();
        (*made)->run(plan);
        ++done;
      }
    } catch (const DeviceError& e) {
      std::fprintf(stderr, "after %zu steps: %s\n", done, e.what());
      std::_Exit(75);
    }
    std::_Exit(0);
  };
  EXPECT_EXIT(scenario(), ::testing::ExitedWithCode(75),
              "after 2 steps: step 3.*(illegal|unspecified|failure|misaligned)");
}

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
