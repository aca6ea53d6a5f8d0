#include "gpu/sim/cost_model.h"
#include "gpu/sim/model_shapes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace troupe {
namespace {

using ::testing::HasSubstr;

ModelConfig shape(const char* name) { return *find_model_shape(name); }

/// A device with round numbers whose roofline is a plain maximum.
DeviceCoefficients round_device() {
  DeviceCoefficients d = *builtin_coefficients("h200");
  d.weight_bytes_per_s_bf16 = 1e12;
  d.weight_bytes_per_s_fp8 = 1e12;
  d.gemm_flops_bf16 = 1e15;
  d.gemm_flops_fp8 = 2e15;
  d.roofline_exponent = 64;
  d.kv_bytes_per_s = 1e12;
  d.attention_flops = 1e15;
  d.activation_bytes_per_s = 1e12;
  d.all_reduce_latency_us = 10;
  d.all_reduce_bytes_per_s = 1e11;
  d.layer_overhead_us = 5;
  d.step_overhead_us = 100;
  d.row_overhead_us = 2;
  return d;
}

CostModel model(const char* name, int32_t tp, SimType weights = SimType::kBf16,
                SimType kv = SimType::kBf16) {
  return *CostModel::create(shape(name), round_device(), tp, weights, kv);
}

StepWork decode(int64_t rows, int64_t context) { return {rows, rows, rows * context, 0}; }

TEST(CostModel, OneRowReadsEveryWeightOnce) {
  const StepCost cost = model("llama-3-8b", 1).cost(decode(1, 0));
  // 32 layers of 218,103,808 weights of two bytes at 1 TB/s.
  EXPECT_NEAR(cost.linear, 32 * 218103808.0 * 2 * 1e-6, 1);
  EXPECT_NEAR(cost.head, 4096.0 * 128256 * 2 * 1e-6, 1);
  EXPECT_EQ(cost.all_reduce, 0);
  EXPECT_EQ(cost.launch, 32 * 5);
  EXPECT_EQ(cost.host, 102);
}

TEST(CostModel, ManyTokensCostTheirOperations) {
  const StepCost cost = model("llama-3-8b", 1).cost({8192, 1, 0, 0});
  EXPECT_NEAR(cost.linear, 32 * 218103808.0 * 2 * 8192 / 1e15 * 1e6, 1);
}

TEST(CostModel, KvCostsTheBytesOfTheContext) {
  // 131,072 bytes a token of Llama 3 8B in bf16, half in fp8.
  EXPECT_NEAR(model("llama-3-8b", 1).cost(decode(4, 1000)).kv, 4 * 1000 * 131072 * 1e-6, 1e-6);
  EXPECT_NEAR(model("llama-3-8b", 1, SimType::kFp8, SimType::kFp8).cost(decode(4, 1000)).kv,
              4 * 1000 * 65536 * 1e-6, 1e-6);
}

TEST(CostModel, RanksShareWeightsAndPayForAllReduces) {
  const StepCost one = model("llama-3-70b", 1).cost(decode(16, 1000));
  const StepCost four = model("llama-3-70b", 4).cost(decode(16, 1000));
  EXPECT_NEAR(four.linear, one.linear / 4, one.linear * 1e-6);
  EXPECT_NEAR(four.kv, one.kv / 4, one.kv * 1e-6);
  // 160 of them: 10 us and 2 x 3/4 of 16 rows of 16 KiB at 100 GB/s.
  EXPECT_NEAR(four.all_reduce, 160 * (10 + 1.5 * 16 * 16384 / 1e11 * 1e6), 1e-3);
}

TEST(CostModel, KvHeadsAreDealtOutWhole) {
  // Qwen2.5 7B has four KV heads: on eight ranks each still holds one.
  EXPECT_EQ(model("qwen2.5-7b", 4).kv_bytes_per_token(),
            model("qwen2.5-7b", 7).kv_bytes_per_token());
  EXPECT_EQ(model("qwen2.5-7b", 1).kv_bytes_per_token(),
            4 * model("qwen2.5-7b", 4).kv_bytes_per_token());
}

TEST(CostModel, RefusesAbsurdDegrees) {
  const auto above =
      CostModel::create(shape("llama-3-8b"), round_device(), 33, SimType::kFp8, SimType::kFp8);
  ASSERT_FALSE(above.ok());
  EXPECT_THAT(above.error().message, HasSubstr("--tp 33 is more than the 32 attention heads"));
  EXPECT_FALSE(
      CostModel::create(shape("llama-3-8b"), round_device(), 0, SimType::kFp8, SimType::kFp8).ok());
}

TEST(CostModel, PoolIsWhatTheWeightsLeave) {
  DeviceCoefficients d = round_device();
  d.memory_bytes = 100e9;
  d.reserve_bytes = 4e9;
  d.memory_fraction = 0.5;
  const CostModel m = *CostModel::create(shape("llama-3-8b"), d, 1, SimType::kBf16, SimType::kBf16);
  const double left = 100e9 - 4e9 - static_cast<double>(m.weight_bytes());
  EXPECT_EQ(*m.pool_slots(), static_cast<int32_t>(left * 0.5 / 131072));
}

TEST(CostModel, SaysWhenTheModelDoesNotFit) {
  const CostModel m = *CostModel::create(shape("llama-3-405b"), *builtin_coefficients("h100"), 1,
                                         SimType::kBf16, SimType::kBf16);
  const auto slots = m.pool_slots();
  ASSERT_FALSE(slots.ok());
  EXPECT_EQ(slots.error().code, ErrorCode::kOutOfMemory);
  EXPECT_THAT(slots.error().message, HasSubstr("the device has 85.5 GB"));
}

TEST(CostModel, ASmallExponentAddsReadingAndMultiplying) {
  DeviceCoefficients d = round_device();
  d.roofline_exponent = 1;
  const auto m = CostModel::create(shape("llama-3-8b"), d, 1, SimType::kBf16, SimType::kBf16);
  const double read = 32 * 218103808.0 * 2 / 1e12 * 1e6;
  const double work = 32 * 218103808.0 * 2 * 500 / 1e15 * 1e6;
  EXPECT_NEAR(m->cost({500, 1, 0, 0}).linear, read + work, 1);
}

TEST(ModelShapes, KnowsTheirWeights) {
  const auto billions = [](const char* name) {
    const auto m =
        CostModel::create(shape(name), round_device(), 1, SimType::kBf16, SimType::kBf16);
    return static_cast<double>(m->weight_bytes()) / 2e9;
  };
  EXPECT_NEAR(billions("llama-3-8b"), 8.03, 0.01);
  EXPECT_NEAR(billions("llama-3-70b"), 70.55, 0.05);
  EXPECT_NEAR(billions("llama-3-405b"), 405.9, 0.3);
  EXPECT_NEAR(billions("qwen2.5-7b"), 7.62, 0.02);
  EXPECT_NEAR(billions("qwen2.5-72b"), 72.7, 0.1);
  EXPECT_NEAR(billions("qwen3-32b"), 32.76, 0.05);
  EXPECT_NEAR(billions("mistral-7b"), 7.25, 0.01);
}

TEST(ModelShapes, ListsTheNamesWhenOneIsUnknown) {
  const auto missing = find_model_shape("llama-9-1t");
  ASSERT_FALSE(missing.ok());
  EXPECT_THAT(missing.error().message, HasSubstr("llama-3-70b"));
}

}  // namespace
}  // namespace troupe
