#include "gpu/sim/sim_executor.h"
#include "gpu/sim/model_shapes.h"
#include "tests/support/step_script.h"

#include <gtest/gtest.h>

#include <chrono>
#include <numeric>

namespace troupe {
namespace {

CostModel model(int32_t tp = 1) {
  return *CostModel::create(*find_model_shape("llama-3-8b"), *builtin_coefficients("h200"), tp,
                            SimType::kFp8, SimType::kBf16);
}

SimExecutorOptions options() {
  SimExecutorOptions o;
  o.n_slots = 4096;
  o.max_rows = 8;
  o.vocab = 1000;
  return o;
}

SamplingParams seeded(uint64_t seed) {
  SamplingParams p;
  p.seed = seed;
  return p;
}

std::vector<int32_t> prompt(int32_t n) {
  std::vector<int32_t> tokens(static_cast<size_t>(n));
  std::iota(tokens.begin(), tokens.end(), 1);
  return tokens;
}

/// The tokens of row 0 after `script`, in order.
std::vector<int32_t> tokens_of(const test::StepScript& script, int32_t row, int32_t tp = 1) {
  SimExecutor executor(model(tp), options());
  std::vector<int32_t> tokens;
  for (const StepPlan& plan : script.plans()) {
    for (const SampledToken& t : executor.run(plan).sampled) {
      if (t.row == row) tokens.push_back(t.token);
    }
  }
  return tokens;
}

TEST(SimExecutor, TokensDependOnSeedAndPositionAlone) {
  test::StepScript alone(4096);
  alone.begin_step();
  alone.open(0, 10, seeded(7));
  alone.feed(0, prompt(10), true);
  for (int i = 0; i < 5; ++i) {
    alone.begin_step();
    alone.decode(0);
  }
  const std::vector<int32_t> expected = tokens_of(alone, 0);
  ASSERT_EQ(expected.size(), 6U);
  for (const int32_t token : expected) EXPECT_TRUE(token >= 0 && token < 1000) << token;

  // In another row, in chunks, beside a neighbour, paused after three tokens and recomputed.
  test::StepScript other(4096, 3);
  other.begin_step();
  other.open(5, 10, seeded(7));
  other.open(2, 4, seeded(8));
  other.feed(5, prompt(6), false);
  other.feed(2, prompt(4), true);
  other.begin_step();
  other.feed(5, prompt(4), true);
  for (int i = 0; i < 2; ++i) {
    other.begin_step();
    other.decode(2);
    other.decode(5);
  }
  std::vector<int32_t> again = tokens_of(other, 5, 8);
  ASSERT_EQ(again.size(), 3U);
  other.begin_step();
  other.close(5);
  other.open(3, 10, seeded(7));
  std::vector<int32_t> known = prompt(10);
  known.insert(known.end(), again.begin(), again.end());
  other.feed(3, known, true);
  for (int i = 0; i < 2; ++i) {
    other.begin_step();
    other.decode(3);
  }
  const std::vector<int32_t> rest = tokens_of(other, 3);
  again.insert(again.end(), rest.begin(), rest.end());
  EXPECT_EQ(again, expected);
  EXPECT_NE(tokens_of(other, 2), std::vector<int32_t>(expected.begin(), expected.begin() + 3));
}

TEST(SimExecutor, GreedyTokensDependOnThePromptAlone) {
  const auto greedy = [](uint64_t seed) {
    SamplingParams p = seeded(seed);
    p.temperature = 0;
    return p;
  };
  const auto run = [&](uint64_t seed, const std::vector<int32_t>& tokens, int32_t cut) {
    test::StepScript script(4096);
    script.begin_step();
    script.open(0, 10, greedy(seed));
    const auto middle = tokens.begin() + cut;
    if (cut > 0) {
      script.feed(0, {tokens.begin(), middle}, false);
      script.begin_step();
    }
    script.feed(0, {middle, tokens.end()}, true);
    script.begin_step();
    script.decode(0);
    return tokens_of(script, 0);
  };
  const std::vector<int32_t> expected = run(1, prompt(10), 0);
  EXPECT_EQ(run(2, prompt(10), 7), expected);
  std::vector<int32_t> other = prompt(10);
  other[4] = 99;
  EXPECT_NE(run(1, other, 0), expected);
  // A pause: the first output token is given with the prompt and belongs to it no more than before.
  std::vector<int32_t> resumed = prompt(10);
  resumed.push_back(expected[0]);
  EXPECT_EQ(run(1, resumed, 0)[0], expected[1]);
}

TEST(SimExecutor, GivesAsManyLogprobsAsAskedFor) {
  SamplingParams params = seeded(7);
  params.n_logprobs = 3;
  test::StepScript script(4096);
  script.begin_step();
  script.open(0, 10, params);
  script.feed(0, prompt(10), true);
  SimExecutor executor(model(), options());
  const StepResult result = executor.run(script.plans()[0]);
  const SampledToken& sampled = result.sampled.at(0);
  ASSERT_EQ(sampled.top.size(), 3U);
  EXPECT_EQ(sampled.top[0].token, sampled.token);
  EXPECT_EQ(sampled.top[0].logprob, sampled.logprob);
  EXPECT_LT(sampled.logprob, 0);
  for (size_t i = 1; i < 3; ++i) {
    EXPECT_LT(sampled.top[i].logprob, sampled.top[i - 1].logprob);
    EXPECT_NE(sampled.top[i].token, sampled.token);
  }
}

TEST(SimExecutor, StepsTakeTheModelledTime) {
  SimExecutor executor(model(), options());
  test::StepScript script(4096);
  script.begin_step();
  script.open(0, 100);
  script.feed(0, prompt(100), true);
  script.begin_step();
  script.decode(0);
  const auto first = executor.run(script.plans()[0]);
  const auto second = executor.run(script.plans()[1]);
  EXPECT_NEAR(first.timings.compute_us, model().cost({100, 1, 0, 100 * 101 / 2}).total(), 1);
  EXPECT_NEAR(second.timings.compute_us, model().cost({1, 1, 100, 0}).total(), 1);
  EXPECT_EQ(executor.context_tokens(), 101);
}

TEST(SimExecutor, CachedPrefixesCostNoComputing) {
  SimExecutor executor(model(), options());
  StepPlan plan;
  plan.epoch = plan.step = 1;
  OpenRow open;
  open.n_prompt = 901;
  open.prefix_slots = prompt(900);
  plan.opened.push_back(open);
  plan.work.push_back({0, 1, false, true});
  plan.tokens = {5};
  plan.slots = {1000};
  const auto result = executor.run(plan);
  EXPECT_NEAR(result.timings.compute_us, model().cost({1, 1, 900, 0}).total(), 1);
}

TEST(SimExecutor, RequestsEndWhereTheWorkloadSays) {
  SimulatedEnds ends;
  ends.at = {-1, 12};
  SimExecutorOptions o = options();
  o.ends = &ends;
  SimExecutor executor(model(), o);
  test::StepScript script(4096);
  script.begin_step();
  script.open(0, 10, seeded(0));
  script.open(1, 10, seeded(1));
  script.feed(0, prompt(10), true);
  script.feed(1, prompt(10), true);
  for (int i = 0; i < 3; ++i) {
    script.begin_step();
    script.decode(0);
    script.decode(1);
  }
  std::vector<int32_t> ended;
  for (const StepPlan& plan : script.plans()) {
    for (const SampledToken& t : executor.run(plan).sampled) {
      if (t.token == SimulatedEnds::kEndToken) ended.push_back(t.row);
    }
    if (plan.step == 2) {
      EXPECT_TRUE(ended.empty());
    }
  }
  EXPECT_EQ(ended, std::vector<int32_t>{1});
}

TEST(SimExecutor, RealTimeStepsEndNoEarlierThanModelled) {
  SimExecutorOptions o = options();
  o.real_time = true;
  SimExecutor executor(model(), o);
  test::StepScript script(4096);
  script.begin_step();
  script.open(0, 500);
  script.feed(0, prompt(500), true);
  script.begin_step();
  script.decode(0);
  const auto begin = std::chrono::steady_clock::now();
  executor.enqueue(script.plans()[0]);
  executor.enqueue(script.plans()[1]);
  EXPECT_FALSE(executor.ready());
  const StepResult first = executor.collect();
  const StepResult second = executor.collect();
  const auto took = std::chrono::steady_clock::now() - begin;
  EXPECT_GE(took, std::chrono::microseconds(first.timings.compute_us + second.timings.compute_us));
  EXPECT_EQ(second.timings.idle_us, 0U) << "the second step follows the first at once";
}

TEST(SimExecutor, DigestsOfRanksAgree) {
  test::StepScript script(4096);
  script.begin_step();
  script.open(0, 10, seeded(7));
  script.feed(0, prompt(10), true);
  SimExecutor one(model(2), options());
  SimExecutor two(model(2), options());
  EXPECT_EQ(one.run(script.plans()[0]).digest, two.run(script.plans()[0]).digest);
}

TEST(SimExecutorDeathTest, ChecksPlansAsARealOneDoes) {
  SimExecutor executor(model(), options());
  StepPlan plan;
  plan.work.push_back({3, 1, false, true});
  plan.slots = {1};
  EXPECT_DEATH(executor.run(plan), "row 3 is not open");
  StepPlan foreign;
  foreign.opened.push_back({});
  foreign.work.push_back({0, 1, false, true});
  foreign.slots = {4096};
  EXPECT_DEATH(executor.run(foreign), "1 tokens of row 0, 0 given");
  foreign.tokens = {5};
  EXPECT_DEATH(executor.run(foreign), "slot 4096");
}

}  // namespace
}  // namespace troupe
