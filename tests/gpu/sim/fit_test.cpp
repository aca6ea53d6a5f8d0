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
  EXPECT_TRUE(parse_step_table("{\"bench\":\"op\"}\n", "x")->empty());
  EXPECT_TRUE(
      parse_step_table("{\"bench\":\"step\",\"rows\":9,\"skipped\":\"no room\"}\n", "x")->empty());
}

std::string op_line(const std::string& op, const std::string& weights, int64_t tokens, double us,
                    double bytes = 1, double flops = 1, int64_t rows = 0, int64_t cols = 0) {
  return R"({"bench":"op","model":"m","weights":")" + weights + R"(","kv":"fp8","tp":1,"op":")" +
         op + "\",\"tokens\":" + std::to_string(tokens) +
         ",\"context\":0,\"rows\":" + std::to_string(rows) + ",\"cols\":" + std::to_string(cols) +
         ",\"us\":" + std::to_string(us) + ",\"bytes\":" + std::to_string(bytes) +
         ",\"flops\":" + std::to_string(flops) + "}\n";
}

TEST(OpTable, EachOperationHasItsTerm) {
  const auto ops = parse_op_table(
      line(1, 0, 0, 1) + op_line("qkv", "fp8", 16, 9, 1, 1, 6144, 4096) +
          op_line("head", "fp8", 1, 250, 1, 1, 128256, 4096) +
          op_line("decode_attention", "fp8", 64, 40, 1.34e8) +
          op_line("prefill_attention", "fp8", 2048, 80, 1, 3.4e10) +
          op_line("norm", "fp8", 2048, 20, 5e7) + op_line("norm", "fp8", 1, 2, 3e4) +
          op_line("sample_greedy", "fp8", 64, 10, 3e7) + op_line("decode_plan", "fp8", 64, 3),
      "x");
  ASSERT_TRUE(ops.ok()) << ops.error().message;
  ASSERT_EQ(ops->size(), 5U);  // no steps, samplers, plans, nor activations too small to tell
  const DeviceCoefficients device = *builtin_coefficients("h200");
  const auto predicted = [&](size_t i) { return predict_us((*ops)[i], device); };
  EXPECT_DOUBLE_EQ(predicted(0), gemm_us(device, 16, 6144.0 * 4096, SimType::kFp8));
  EXPECT_DOUBLE_EQ(predicted(1), gemm_us(device, 1, 128256.0 * 4096, SimType::kBf16));
  EXPECT_DOUBLE_EQ(predicted(2), 1.34e8 / device.kv_bytes_per_s * 1e6);
  EXPECT_DOUBLE_EQ(predicted(3), 3.4e10 / device.attention_flops * 1e6);
  EXPECT_DOUBLE_EQ(predicted(4), 5e7 / device.activation_bytes_per_s * 1e6);
  const auto bad = parse_op_table("\n" + op_line("qkv", "int4", 1, 1, 1, 1, 8, 8), "ops.jsonl");
  ASSERT_FALSE(bad.ok());
  EXPECT_THAT(bad.error().message, HasSubstr("ops.jsonl:2: 'weights'"));
  EXPECT_FALSE(parse_op_table(op_line("o", "fp8", 1, -1, 1, 1, 8, 8), "x").ok());
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
