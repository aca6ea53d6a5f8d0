#include "gpu/ops/rms_norm.h"

#include "gpu/device/stream.h"
#include "tests/support/isas.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace troupe {
namespace {

std::vector<float> normal(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> distribution;
  std::vector<float> x(n);
  for (float& e : x) e = distribution(random);
  return x;
}

std::vector<double> naive(const std::vector<float>& x, const std::vector<float>& weight,
                          double eps) {
  const size_t n = weight.size();
  std::vector<double> out(x.size());
  for (size_t t = 0; t < x.size() / n; ++t) {
    double sum = 0.0;
    for (size_t i = 0; i < n; ++i) sum += std::pow(static_cast<double>(x[t * n + i]), 2);
    for (size_t i = 0; i < n; ++i)
      out[t * n + i] = static_cast<double>(x[t * n + i]) /
                       std::sqrt(sum / static_cast<double>(n) + eps) *
                       static_cast<double>(weight[i]);
  }
  return out;
}

void expect_near(const std::vector<float>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(static_cast<double>(got[i]), want[i], 1e-5 * (1.0 + std::abs(want[i]))) << i;
}

class RmsNormTest : public testing::TestWithParam<Isa> {
 protected:
  Stream stream_{2, GetParam()};
};

TEST_P(RmsNormTest, MatchesTheDefinition) {
  for (const int32_t hidden : {1, 7, 8, 15, 16, 17, 64, 100, 576, 4096}) {
    for (const int32_t tokens : {0, 1, 5, 40}) {
      const auto x = normal(static_cast<size_t>(tokens * hidden), 1);
      const auto weight = normal(static_cast<size_t>(hidden), 2);
      std::vector<float> out(x.size());
      cpu::rms_norm(out.data(), x.data(), weight.data(), tokens, hidden, 1e-5F, stream_);
      expect_near(out, naive(x, weight, 1e-5));
      auto in_place = x;
      cpu::rms_norm(in_place.data(), in_place.data(), weight.data(), tokens, hidden, 1e-5F,
                    stream_);
      EXPECT_EQ(in_place, out);
    }
  }
}

TEST_P(RmsNormTest, AddsToTheResidualFirst) {
  const int32_t tokens = 9;
  const int32_t hidden = 579;
  auto residual = normal(static_cast<size_t>(tokens * hidden), 3);
  auto x = normal(residual.size(), 4);
  const auto weight = normal(static_cast<size_t>(hidden), 5);
  std::vector<float> sum(x.size());
  for (size_t i = 0; i < x.size(); ++i) sum[i] = residual[i] + x[i];
  cpu::add_rms_norm(x.data(), residual.data(), x.data(), weight.data(), tokens, hidden, 1e-6F,
                    stream_);
  EXPECT_EQ(residual, sum);
  expect_near(x, naive(sum, weight, 1e-6));
}

TEST_P(RmsNormTest, BatchInvariant) {
  const int32_t hidden = 576;
  const auto x = normal(static_cast<size_t>(30 * hidden), 6);
  const auto weight = normal(static_cast<size_t>(hidden), 7);
  std::vector<float> together(x.size());
  cpu::rms_norm(together.data(), x.data(), weight.data(), 30, hidden, 1e-5F, stream_);
  for (int32_t t = 0; t < 30; ++t) {
    std::vector<float> alone(static_cast<size_t>(hidden));
    cpu::rms_norm(alone.data(), x.data() + t * hidden, weight.data(), 1, hidden, 1e-5F, stream_);
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + t * hidden)) << t;
  }
}

TEST_P(RmsNormTest, ZerosStayZero) {
  const std::vector<float> x(64, 0.0F);
  const std::vector<float> weight(64, 1.0F);
  std::vector<float> out(64, 5.0F);
  cpu::rms_norm(out.data(), x.data(), weight.data(), 1, 64, 1e-5F, stream_);
  EXPECT_EQ(out, x);
}

INSTANTIATE_TEST_SUITE_P(Isa, RmsNormTest, testing::ValuesIn(testing_support::runnable_isas()),
                         testing_support::isa_name);

}  // namespace
}  // namespace troupe
