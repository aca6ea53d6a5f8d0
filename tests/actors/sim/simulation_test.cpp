#include "actors/sim/simulation.h"
#include "gpu/sim/model_shapes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace troupe {
namespace {

CostModel model(const char* name = "llama-3-8b", int32_t tp = 1, const char* device = "h200",
                SimType weights = SimType::kFp8) {
  return *CostModel::create(*find_model_shape(name), *builtin_coefficients(device), tp, weights,
                            SimType::kFp8);
}

Workload workload(const std::string& spec, int32_t requests, double rate = 0) {
  WorkloadOptions options;
  options.requests = requests;
  options.rate = rate;
  options.max_context = 32768;
  return *make_workload(spec, options);
}

TEST(Simulation, OneRequestTakesItsStepsOneAfterTheOther) {
  const auto result = simulate(model(), workload("random:1000/11", 1), {});
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_EQ(result->finished, 1);
  EXPECT_EQ(result->output_tokens, 11);
  const CostModel m = model();
  const double prefill = m.cost({1000, 1, 0, 1000.0 * 1001 / 2}).total() * 1e-3;
  double decode = 0;
  for (int i = 0; i < 10; ++i) decode += m.cost({1, 1, 1000 + i, 0}).total() * 1e-3;
  EXPECT_NEAR(result->ttft_ms.mean, prefill, 0.01);
  EXPECT_NEAR(result->tpot_ms.mean, decode / 10, 0.01);
  EXPECT_NEAR(result->seconds, (prefill + decode) * 1e-3, 1e-4);
  EXPECT_EQ(result->ttft_ms.p50, result->ttft_ms.p99);
}

TEST(Simulation, IsDeterministic) {
  const auto once = simulate(model(), workload("sharegpt-like", 300, 20), {});
  const auto again = simulate(model(), workload("sharegpt-like", 300, 20), {});
  ASSERT_TRUE(once.ok() && again.ok());
  EXPECT_EQ(once->seconds, again->seconds);
  EXPECT_EQ(once->ttft_ms.p99, again->ttft_ms.p99);
  EXPECT_EQ(once->steps, again->steps);
}

TEST(Simulation, EveryTokenOfTheWorkloadIsProduced) {
  const Workload chats = workload("sharegpt-like", 400);
  int64_t expected = 0;
  for (const WorkloadRequest& r : chats.requests) expected += r.output_tokens;
  SimulationOptions options;
  options.dp = 2;
  options.kv_slots = 20000;  // pauses, and still
  const auto result = simulate(model(), chats, options);
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_EQ(result->finished, 400);
  EXPECT_EQ(result->failed, 0);
  EXPECT_EQ(result->output_tokens, expected);
  EXPECT_GT(result->kv_peak, 0.5);
  EXPECT_LE(result->kv_peak, 1.0);
}

TEST(Simulation, TwoReplicasDoTwiceTheWork) {
  SimulationOptions two;
  two.dp = 2;
  SimulationOptions small;
  small.max_rows = two.max_rows = 64;
  const auto one = simulate(model(), workload("random:200/200", 1024), small);
  const auto both = simulate(model(), workload("random:200/200", 1024), two);
  ASSERT_TRUE(one.ok() && both.ok());
  EXPECT_NEAR(both->output_tokens_per_s / one->output_tokens_per_s, 2, 0.1);
}

TEST(Simulation, AtALowRateLatencyIsThatOfAnEmptyDevice) {
  const auto result = simulate(model(), workload("random:100/50", 50, 0.5), {});
  ASSERT_TRUE(result.ok());
  const CostModel m = model();
  EXPECT_NEAR(result->ttft_ms.p50, m.cost({100, 1, 0, 5050}).total() * 1e-3, 0.1);
  EXPECT_NEAR(result->tpot_ms.p50, m.cost({1, 1, 125, 0}).total() * 1e-3, 0.1);
}

TEST(Simulation, SharedPrefixesAreComputedOnce) {
  Workload w = workload("random:2176/8", 32, 10);
  for (WorkloadRequest& r : w.requests) {
    r.prefix_group = 1;
    r.prefix_tokens = 2048;
  }
  const auto result = simulate(model(), w, {});
  ASSERT_TRUE(result.ok());
  EXPECT_GE(result->cached_tokens, 31 * 2048);
  EXPECT_LT(result->cached_tokens, 31 * 2176);
}

TEST(Simulation, RequestsThatFitNoPoolFailAndAreCounted) {
  SimulationOptions options;
  options.kv_slots = 500;
  Workload w = workload("random:100/50", 2);
  w.requests[1].prompt_tokens = 600;
  const auto result = simulate(model(), w, options);
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_EQ(result->finished, 1);
  EXPECT_EQ(result->failed, 1);
  EXPECT_FALSE(result->first_error.empty());
}

/// More than the router gets at a time: nobody is lost, and those held back have waited from their
/// arrival on.
TEST(Simulation, RequestsThatArriveTogetherWaitFromThenOn) {
  SimulationOptions options;
  options.max_rows = 16;
  const auto result = simulate(model(), workload("random:20/20", 5000), options);
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_EQ(result->finished, 5000);
  EXPECT_EQ(result->output_tokens, 5000 * 20);
  EXPECT_NEAR(result->ttft_ms.p50 * 2e-3 / result->seconds, 1, 0.05);
  EXPECT_NEAR(result->ttft_ms.p99 * 1e-3 / result->seconds, 0.99, 0.05);
}

TEST(Simulation, SaysHowFarItHasCome) {
  SimulationOptions options;
  options.max_rows = 8;
  std::vector<SimulationProgress> seen;
  options.progress = [&](const SimulationProgress& p) { seen.push_back(p); };
  options.progress_every = std::chrono::milliseconds(0);
  const auto result = simulate(model(), workload("random:20/40", 3000), options);
  ASSERT_TRUE(result.ok());
  ASSERT_GT(seen.size(), 1U);
  for (size_t i = 1; i < seen.size(); ++i) {
    EXPECT_GT(seen[i].ended, seen[i - 1].ended);
    EXPECT_GT(seen[i].output_tokens, seen[i - 1].output_tokens);
    EXPECT_GT(seen[i].seconds, seen[i - 1].seconds);
  }
  EXPECT_EQ(seen.back().requests, 3000);
  EXPECT_LE(seen.back().ended, 3000);
  EXPECT_LE(seen.back().seconds, result->seconds);
}

TEST(Simulation, SaysWhenTheModelDoesNotFit) {
  const auto result =
      simulate(model("llama-3-405b", 1, "h100", SimType::kBf16), workload("random:10/10", 1), {});
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::kOutOfMemory);
}

/// One published cell as a guard; tests/bench/sim_calibration has them all.
TEST(Simulation, PredictsAPublishedThroughput) {
  WorkloadOptions options;
  options.requests = 1500;
  options.max_context = 131072;
  const auto result =
      simulate(model("llama-3-70b", 8), *make_workload("random:2048/2048", options), {});
  ASSERT_TRUE(result.ok());
  EXPECT_NEAR(result->output_tokens_per_s / 11142, 1, 0.15);
}

}  // namespace
}  // namespace troupe
