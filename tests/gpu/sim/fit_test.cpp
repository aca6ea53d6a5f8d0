#include "gpu/sim/fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace troupe {
namespace {

using ::testing::HasSubstr;

std::string line(int64_t rows, int64_t context, int64_t prefill, double ms) {
  return R"({"bench":"step","model":"llama-3-8b","weights":"bf16","kv":"bf16","tp":1,"rows":)" +
         std::to_string(rows) + ",\"context\":" + std::to_string(context) +
         ",\"prefill_tokens\":" + std::to_string(prefill) + ",\"ms\":" + std::to_string(ms) + "}\n";
}

std::string refusal(const std::string& text) {
  const auto parsed = parse_step_table(text, "steps.jsonl");
  EXPECT_FALSE(parsed.ok());
  return parsed.ok() ? "" : parsed.error().message;
}

TEST(StepTable, ReadsWhatAStepHeld) {
  const auto steps = parse_step_table(
      "{\"bench\":\"ops\"}\n\n" + line(16, 1000, 0, 5.5) + line(3, 100, 512, 20), "x");
  ASSERT_TRUE(steps.ok()) << steps.error().message;
  ASSERT_EQ(steps->size(), 2U);
  EXPECT_EQ((*steps)[0].work.tokens, 16);
  EXPECT_EQ((*steps)[0].work.kv_tokens, 16000);
  EXPECT_EQ((*steps)[1].work.tokens, 515);
  EXPECT_EQ((*steps)[1].work.sampled, 4);
  EXPECT_EQ((*steps)[1].work.score_pairs, 512 * 513 / 2);
  EXPECT_EQ((*steps)[1].ms, 20);
}

TEST(StepTable, RefusesBadLinesWithTheirNumber) {
  const std::string good = line(1, 0, 0, 1);
  EXPECT_THAT(refusal(good + "{\"bench\":\"st"), HasSubstr("steps.jsonl:2: not a JSON object"));
  EXPECT_THAT(refusal(good + good + R"({"bench":"step","model":"nothing"})"),
              HasSubstr("steps.jsonl:3: no model 'nothing'"));
  EXPECT_THAT(refusal(line(-1, 0, 0, 1)), HasSubstr("'rows' must be a whole number"));
  EXPECT_THAT(refusal(line(1, 0, 0, -1)), HasSubstr("'ms' must be a positive number"));
  EXPECT_THAT(refusal(line(0, 0, 0, 1)), HasSubstr("empty or absurd"));
  EXPECT_THAT(refusal(line(1 << 20, 1 << 24, 0, 1)), HasSubstr("empty or absurd"));
  EXPECT_THAT(refusal("{\"bench\":\"ops\"}\n"), HasSubstr("no line with"));
}

TEST(Fit, FindsTheCoefficientsThatMadeTheTable) {
  DeviceCoefficients truth = *builtin_coefficients("h200");
  truth.gemm_flops_bf16 = 500e12;
  truth.weight_bytes_per_s_bf16 = 3e12;
  truth.kv_bytes_per_s = 2.5e12;
  truth.layer_overhead_us = 60;
  std::string table;
  for (const int rows : {1, 8, 64, 256}) table += line(rows, 1000, 0, 1);
  for (const int chunk : {512, 2048, 8192}) table += line(0, 0, chunk, 1);
  auto steps = *parse_step_table(table, "x");
  for (MeasuredStep& step : steps) step.ms = *predict_ms(step, truth);

  const auto errors = [&steps](const DeviceCoefficients& device) {
    std::vector<double> out;
    for (const MeasuredStep& step : steps)
      out.push_back(std::log(*predict_ms(step, device) / step.ms));
    return out;
  };
  const std::vector<std::string> names = {"gemm_flops_bf16", "weight_bytes_per_s_bf16",
                                          "kv_bytes_per_s", "layer_overhead_us"};
  const auto fitted = fit_coefficients(*builtin_coefficients("h200"), names, errors);
  ASSERT_TRUE(fitted.ok()) << fitted.error().message;
  EXPECT_NEAR(fitted->gemm_flops_bf16 / truth.gemm_flops_bf16, 1, 0.01);
  EXPECT_NEAR(fitted->weight_bytes_per_s_bf16 / truth.weight_bytes_per_s_bf16, 1, 0.01);
  EXPECT_NEAR(fitted->kv_bytes_per_s / truth.kv_bytes_per_s, 1, 0.01);
  EXPECT_NEAR(fitted->layer_overhead_us / truth.layer_overhead_us, 1, 0.02);
  EXPECT_THAT(fitted->fitted, ::testing::IsSupersetOf(names));
}

TEST(Fit, LeavesWhatTheTableCannotTell) {
  const DeviceCoefficients start = *builtin_coefficients("h200");
  const auto steps = *parse_step_table(line(1, 1000, 0, 5.5), "x");
  const auto errors = [&steps](const DeviceCoefficients& device) {
    return std::vector<double>{std::log(*predict_ms(steps[0], device) / steps[0].ms)};
  };
  const std::vector<std::string> names = {"weight_bytes_per_s_bf16", "all_reduce_bytes_per_s"};
  const auto fitted = fit_coefficients(start, names, errors);
  ASSERT_TRUE(fitted.ok());
  EXPECT_NEAR(errors(*fitted)[0], 0, 1e-6);
  EXPECT_DOUBLE_EQ(fitted->all_reduce_bytes_per_s, start.all_reduce_bytes_per_s);
}

TEST(Fit, RefusesAnUnknownName) {
  const std::vector<std::string> names = {"luck"};
  const auto fitted =
      fit_coefficients(*builtin_coefficients("h200"), names,
                       [](const DeviceCoefficients&) { return std::vector<double>{}; });
  ASSERT_FALSE(fitted.ok());
  EXPECT_THAT(fitted.error().message, HasSubstr("no coefficient 'luck'"));
}

}  // namespace
}  // namespace troupe
