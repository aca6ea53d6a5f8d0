#include "gpu/executor.h"

#include "gpu/memory_plan.h"
#include "gpu/step_digest.h"
#include "nccl/communicators.h"
#include "tests/support/run_plans.h"
#include "tests/support/step_script.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <string>

namespace troupe {
namespace {

using testing::HasSubstr;

constexpr int32_t kSlots = 512;

test::TinyModel tiny(const std::string& architecture) {
  test::TinyModel m;
  m.architecture = architecture;
  m.hidden = 96;
  m.heads = 6;
  m.kv_heads = 3;
  m.head_dim = 32;
  m.ffn = 160;
  m.vocab = 333;
  return m;
}

std::vector<int32_t> prompt(int32_t n, int32_t salt = 0) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < n; ++i) tokens.push_back((i * 97 + 13 + salt * 41) % 333);
  return tokens;
}

/// Logprobs make every bit of a logit count.
SamplingParams with_logprobs(float temperature, uint64_t seed = 7) {
  SamplingParams p;
  p.temperature = temperature;
  p.seed = seed;
  p.n_logprobs = 5;
  return p;
}

void expect_same_bits(const std::vector<SampledToken>& got, const std::vector<SampledToken>& want,
                      const std::string& what) {
  SCOPED_TRACE(what);
  ASSERT_EQ(got.size(), want.size());
  const auto bits = [](float f) { return std::bit_cast<uint32_t>(f); };
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].token, want[i].token) << "token " << i;
    ASSERT_EQ(bits(got[i].logprob), bits(want[i].logprob)) << "token " << i;
    ASSERT_EQ(got[i].top.size(), want[i].top.size());
    for (size_t k = 0; k < got[i].top.size(); ++k) {
      ASSERT_EQ(got[i].top[k].token, want[i].top[k].token);
      ASSERT_EQ(bits(got[i].top[k].logprob), bits(want[i].top[k].logprob));
    }
  }
}

class ExecutorTest : public testing::Test {
 protected:
  void open(const std::string& architecture, DType matrices) {
    test::write_tiny_gguf(tiny(architecture), dir_ / "m.gguf", matrices);
    auto opened = Checkpoint::open(dir_ / "m.gguf");
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    checkpoint_ = std::move(opened).value();
  }

  static ExecutorOptions options() {
    ExecutorOptions o;
    o.n_slots = kSlots;
    o.max_rows = 8;
    o.max_step_tokens = 64;
    return o;
  }

  /// Row 0 alone: prompt in one step, then `n` - 1 decodes.
  std::vector<SampledToken> alone(int32_t n_prompt, int32_t n, float temperature, int32_t ranks) {
    test::StepScript script(kSlots);
    script.begin_step();
    script.open(0, n_prompt, with_logprobs(temperature));
    script.feed(0, prompt(n_prompt), true);
    for (int32_t i = 1; i < n; ++i) {
      script.begin_step();
      script.decode(0);
    }
    return test::sampled_of(test::run_plans(*checkpoint_, options(), ranks, script.plans()), 0);
  }

  test::TempDir dir_;
  std::unique_ptr<Checkpoint> checkpoint_;
};

class ExecutorFamily : public ExecutorTest, public testing::WithParamInterface<const char*> {};

TEST_P(ExecutorFamily, GreedyTokensAreTheSameAtEveryRankCountWhenExact) {
  open(GetParam(), DType::kQ8_0);
  ExecutorOptions o = options();
  o.weights = WeightMode::kExact;
  o.kv = DType::kF32;
  SamplingParams greedy;
  greedy.temperature = 0;
  test::StepScript script(kSlots, 3);
  script.begin_step();
  for (int32_t row = 0; row < 3; ++row) {
    script.open(row, 5 + 4 * row, greedy);
    script.feed(row, prompt(5 + 4 * row, row), true);
  }
  for (int32_t i = 0; i < 32; ++i) {
    script.begin_step();
    for (int32_t row = 0; row < 3; ++row) script.decode(row);
  }
  const auto one = test::run_plans(*checkpoint_, o, 1, script.plans());
  for (int32_t ranks = 2; ranks <= 4; ++ranks) {
    const auto many = test::run_plans(*checkpoint_, o, ranks, script.plans());
    for (int32_t row = 0; row < 3; ++row)
      EXPECT_EQ(test::tokens_of(test::sampled_of(many, row)),
                test::tokens_of(test::sampled_of(one, row)))
          << ranks << " ranks, row " << row;
  }
}

INSTANTIATE_TEST_SUITE_P(All, ExecutorFamily, testing::Values("llama", "mistral", "qwen2", "qwen3"),
                         [](const auto& p) { return std::string(p.param); });

TEST_F(ExecutorTest, PrefillMayBeCutAnywhere) {
  open("llama", DType::kQ4_1);
  for (const int32_t ranks : {1, 2}) {
    const auto want = alone(50, 12, 0.8F, ranks);
    for (const int32_t chunk : {1, 3, 16, 17, 49}) {
      test::StepScript script(kSlots, 9);
      const std::vector<int32_t> tokens = prompt(50);
      for (int32_t at = 0; at < 50; at += chunk) {
        script.begin_step();
        if (at == 0) script.open(0, 50, with_logprobs(0.8F));
        const int32_t n = std::min(chunk, 50 - at);
        script.feed(0, std::span(tokens).subspan(static_cast<size_t>(at), static_cast<size_t>(n)),
                    at + n == 50);
      }
      for (int32_t i = 1; i < 12; ++i) {
        script.begin_step();
        script.decode(0);
      }
      const auto results = test::run_plans(*checkpoint_, options(), ranks, script.plans());
      expect_same_bits(test::sampled_of(results, 0), want, "chunks of " + std::to_string(chunk));
    }
  }
}

TEST_F(ExecutorTest, NeighboursRowNumberAndSlotsDoNotMatter) {
  open("llama", DType::kQ4_1);
  for (const int32_t ranks : {1, 3}) {
    const auto want = alone(20, 16, 0.8F, ranks);
    test::StepScript script(kSlots, 5);
    script.begin_step();
    script.open(2, 30, with_logprobs(1.0F, 1));
    script.feed(2, prompt(30, 1), true);
    script.begin_step();
    script.decode(2);
    script.open(6, 20, with_logprobs(0.8F));
    script.feed(6, prompt(20), true);
    script.open(1, 9, with_logprobs(0.0F));
    script.feed(1, prompt(9, 2), true);
    for (int32_t i = 1; i < 16; ++i) {
      script.begin_step();
      if (i == 5) script.close(2);
      if (i < 5) script.decode(2);
      if (i == 7) {
        script.open(0, 40, with_logprobs(1.0F));
        script.feed(0, prompt(40, 3), true);
      }
      script.decode(6);
      if (i % 2 == 0) script.decode(1);
      if (i > 7) script.decode(0);
    }
    const auto results = test::run_plans(*checkpoint_, options(), ranks, script.plans());
    expect_same_bits(test::sampled_of(results, 6), want, std::to_string(ranks) + " ranks");
  }
}

TEST_F(ExecutorTest, PausedRowGoesOnWithTheSameTokens) {
  open("qwen3", DType::kQ4_1);
  SamplingParams sampling = with_logprobs(0.9F);
  sampling.presence_penalty = 0.7F;  // counts output only: n_prompt must survive the pause
  sampling.repetition_penalty = 1.2F;
  const auto run = [&](bool pause, bool prefix) {
    test::StepScript script(kSlots, 2);
    script.begin_step();
    script.open(0, 20, sampling);
    script.feed(0, prompt(20), true);
    for (int32_t i = 1; i < 10; ++i) {
      script.begin_step();
      script.decode(0);
    }
    auto plans = script.plans();
    if (pause) {
      // What the router knows after ten tokens: prompt and output, all but the last computed.
      std::vector<int32_t> known = prompt(20);
      for (const int32_t t :
           test::tokens_of(test::sampled_of(test::run_plans(*checkpoint_, options(), 2, plans), 0)))
        known.push_back(t);
      const std::vector<int32_t> old_slots = script.slots_of(0);
      script.begin_step();
      script.close(0);
      const size_t cached = prefix ? 13 : 0;
      StepPlan& plan = script.begin_step();
      script.open(3, 20, sampling);
      plan.opened[0].prefix_slots.assign(old_slots.begin(),
                                         old_slots.begin() + static_cast<int32_t>(cached));
      plan.opened[0].prefix_tokens.assign(known.begin(),
                                          known.begin() + static_cast<int32_t>(cached));
      if (prefix) {
        // The cached slots are not free, so the new ones come from elsewhere.
        for (size_t i = cached; i < known.size(); ++i)
          plan.slots.push_back(500 - static_cast<int32_t>(i));
        plan.work.push_back({3, static_cast<int32_t>(known.size() - cached), false, true});
        plan.tokens.assign(known.begin() + static_cast<int32_t>(cached), known.end());
      } else {
        script.feed(3, known, true);
      }
      plans = script.plans();
      for (int32_t i = 1; i < 10; ++i) {
        StepPlan next;
        next.work.push_back({3, 1, true, true});
        next.slots.push_back(460 - i);
        plans.push_back(next);
      }
    } else {
      for (int32_t i = 0; i < 10; ++i) {
        script.begin_step();
        script.decode(0);
      }
      plans = script.plans();
    }
    const auto results = test::run_plans(*checkpoint_, options(), 2, plans);
    auto out = test::sampled_of(results, 0);
    const auto rest = test::sampled_of(results, 3);
    out.insert(out.end(), rest.begin(), rest.end());
    return out;
  };
  const auto want = run(false, false);
  EXPECT_EQ(want.size(), 20U);
  expect_same_bits(run(true, false), want, "recomputed");
  expect_same_bits(run(true, true), want, "with a cached prefix");
}

TEST_F(ExecutorTest, StepsLargerThanTheWorkspaceAreCut) {
  open("llama", DType::kQ4_1);
  test::StepScript script(kSlots, 4);
  script.begin_step();
  for (int32_t row = 0; row < 3; ++row) {
    script.open(row, 30 + row, with_logprobs(0.8F));
    script.feed(row, prompt(30 + row, row), true);
  }
  script.begin_step();
  for (int32_t row = 0; row < 3; ++row) script.decode(row);
  ExecutorOptions large = options();
  large.max_step_tokens = 200;
  ExecutorOptions small = options();
  small.max_step_tokens = 13;
  const auto want = test::run_plans(*checkpoint_, large, 1, script.plans());
  const auto got = test::run_plans(*checkpoint_, small, 1, script.plans());
  for (size_t i = 0; i < want.size(); ++i) {
    expect_same_bits(got[i].sampled, want[i].sampled, "step " + std::to_string(i));
    EXPECT_EQ(got[i].digest, want[i].digest);
  }
}

TEST_F(ExecutorTest, ThreadsDoNotMatter) {
  open("llama", DType::kQ4_1);
  test::StepScript script(kSlots, 4);
  script.begin_step();
  script.open(0, 40, with_logprobs(0.8F));
  script.feed(0, prompt(40), true);
  for (int32_t i = 0; i < 5; ++i) {
    script.begin_step();
    script.decode(0);
  }
  ExecutorOptions threads = options();
  threads.n_threads = 3;
  expect_same_bits(test::sampled_of(test::run_plans(*checkpoint_, threads, 1, script.plans()), 0),
                   test::sampled_of(test::run_plans(*checkpoint_, options(), 1, script.plans()), 0),
                   "three threads");
}

TEST_F(ExecutorTest, ResultNamesItsStepAndResetFreesAllRows) {
  open("llama", DType::kF32);
  const auto communicator = make_single_communicator();
  auto executor = Executor::create(*checkpoint_, options(), *communicator);
  ASSERT_TRUE(executor.ok()) << executor.error().message;
  test::StepScript script(kSlots);
  StepPlan& plan = script.begin_step();
  plan.epoch = 5;
  plan.step = 77;
  script.open(4, 3);
  script.feed(4, prompt(3), true);
  const StepResult first = (*executor)->run(script.plans()[0]);
  EXPECT_EQ(first.epoch, 5U);
  EXPECT_EQ(first.step, 77U);
  EXPECT_EQ(first.timings.idle_us, 0U);
  ASSERT_EQ(first.sampled.size(), 1U);
  EXPECT_EQ(first.sampled[0].row, 4);
  EXPECT_EQ(first.digest, step_digest(script.plans()[0], first.sampled));
  (*executor)->reset();
  // Row 4 is free again and behaves as if it were new.
  EXPECT_EQ((*executor)->run(script.plans()[0]).digest, first.digest);
  EXPECT_GT((*executor)->memory().weights, 0);
  EXPECT_GT((*executor)->memory().kv, 0);
  EXPECT_GT((*executor)->memory().workspace, 0);
}

TEST_F(ExecutorTest, EmptyPlanIsAStepToo) {
  open("llama", DType::kF32);
  const auto results = test::run_plans(*checkpoint_, options(), 2, {StepPlan{}});
  ASSERT_EQ(results.size(), 1U);
  EXPECT_TRUE(results[0].sampled.empty());
}

TEST_F(ExecutorTest, RefusesWhatCannotFit) {
  open("llama", DType::kF32);
  ExecutorOptions huge = options();
  huge.n_slots = 2000000000;
  test::run_ranks(2, [&](Communicator& c) {
    const auto executor = Executor::create(*checkpoint_, huge, c);
    ASSERT_FALSE(executor.ok());
    EXPECT_EQ(executor.error().code, ErrorCode::kOutOfMemory);
    EXPECT_THAT(executor.error().message, HasSubstr("lower --kv-tokens to at most"));
  });
  test::run_ranks(7, [&](Communicator& c) {
    const auto executor = Executor::create(*checkpoint_, options(), c);
    ASSERT_FALSE(executor.ok());
    EXPECT_EQ(executor.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(executor.error().message, HasSubstr("6 attention heads"));
  });
}

using ExecutorDeathTest = ExecutorTest;

TEST_F(ExecutorDeathTest, PlansThatBreakTheProtocolAbort) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  open("llama", DType::kF32);
  const auto dies = [&](const StepPlan& plan, const char* text) {
    EXPECT_DEATH(
        {
          const auto c = make_single_communicator();
          auto executor = Executor::create(*checkpoint_, options(), *c);
          (*executor)->run(plan);
        },
        text);
  };
  StepPlan good;
  good.opened.push_back({0, 2, {}, {}, {}});
  good.work.push_back({0, 2, false, true});
  good.tokens = {1, 2};
  good.slots = {3, 4};
  const auto broken = [&](auto change) {
    StepPlan plan = good;
    change(plan);
    return plan;
  };
  dies(broken([](StepPlan& p) { p.closed = {0}; }), "not open");
  dies(broken([](StepPlan& p) { p.work[0].row = 1; }), "not open");
  dies(broken([](StepPlan& p) { p.work[0].row = 8; }), "8 of 8");
  dies(broken([](StepPlan& p) { p.opened[0].row = -1; }), "-1 of 8");
  dies(broken([](StepPlan& p) { p.opened.push_back(p.opened[0]); }), "open already");
  dies(broken([](StepPlan& p) { p.slots[1] = kSlots; }), "512 of 512");
  dies(broken([](StepPlan& p) { p.slots[1] = -1; }), "-1 of 512");
  dies(broken([](StepPlan& p) { p.tokens[0] = 333; }), "333 of 333");
  dies(broken([](StepPlan& p) { p.slots.pop_back(); }), "too few");
  dies(broken([](StepPlan& p) { p.tokens.pop_back(); }), "too few");
  dies(broken([](StepPlan& p) { p.tokens.push_back(1); }), "given 2 of 3");
  dies(broken([](StepPlan& p) { p.work[0].n_tokens = 0; }), "check failed");
  dies(broken([](StepPlan& p) { p.work[0].n_tokens = -5; }), "check failed");
  dies(broken([](StepPlan& p) {
         p.work[0] = {0, 1, true, true};
         p.tokens.clear();
         p.slots = {3};
       }),
       "last -1");
}

TEST(MemoryPlan, AddsUpTheRanksOfOneHost) {
  // host, weights, workspace, per slot, available
  const std::vector<MemoryNeed> same = {{1, 1000, 200, 10, 5000}, {1, 1000, 200, 10, 4900}};
  EXPECT_TRUE(check_memory(same, 125).ok());  // 2400 + 2500
  const Status refused = check_memory(same, 126);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kOutOfMemory);
  EXPECT_THAT(refused.error().message, HasSubstr("at most 125"));
  const std::vector<MemoryNeed> apart = {{1, 1000, 200, 10, 5000}, {2, 1000, 200, 10, 4900}};
  EXPECT_TRUE(check_memory(apart, 370).ok());
  EXPECT_THAT(check_memory(apart, 371).error().message, HasSubstr("at most 370"));
  const Status never = check_memory(std::vector<MemoryNeed>{{1, 6000, 0, 10, 5000}}, 1);
  EXPECT_THAT(never.error().message, HasSubstr("smaller model"));
}

TEST(StepDigest, EveryFieldCounts) {
  StepPlan plan;
  plan.epoch = 1;
  plan.opened.push_back({0, 2, {}, {5}, {6}});
  plan.work.push_back({0, 2, false, true});
  plan.tokens = {1, 2};
  plan.slots = {3, 4};
  const std::vector<SampledToken> sampled = {{0, 9, 0.0F, {}, false}};
  const uint64_t base = step_digest(plan, sampled);
  EXPECT_EQ(step_digest(plan, sampled), base);
  const auto differs = [&](auto change) {
    StepPlan p = plan;
    auto s = sampled;
    change(p, s);
    EXPECT_NE(step_digest(p, s), base);
  };
  differs([](auto& p, auto&) { p.epoch = 2; });
  differs([](auto& p, auto&) { p.step = 1; });
  differs([](auto& p, auto&) { p.closed = {0}; });
  differs([](auto& p, auto&) { p.opened[0].sampling.temperature = 0.5F; });
  differs([](auto& p, auto&) { p.opened[0].sampling.logit_bias.push_back({1, 1.0F}); });
  differs([](auto& p, auto&) { std::swap(p.opened[0].prefix_slots, p.opened[0].prefix_tokens); });
  differs([](auto& p, auto&) { p.work[0].sample = false; });
  differs([](auto& p, auto&) { std::swap(p.tokens, p.slots); });
  differs([](auto& p, auto&) { std::swap(p.slots[0], p.slots[1]); });
  differs([](auto&, auto& s) { s[0].token = 8; });
  differs([](auto&, auto& s) { s[0].failed = true; });
}

}  // namespace
}  // namespace troupe
