#include "gpu/ops/silu_mul.h"

#include "gpu/device/stream.h"
#include "tests/support/isas.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace troupe {
namespace {

class SiluMulTest : public testing::TestWithParam<Isa> {
 protected:
  Stream stream_{2, GetParam()};
};

double silu(double z) { return z / (1.0 + std::exp(-z)); }

TEST_P(SiluMulTest, RelativeErrorBelowOneInAMillion) {
  const int32_t width = 20001;  // every thousandth from -10 to 10
  std::vector<float> in(2 * static_cast<size_t>(width), 1.0F);
  for (int32_t i = 0; i < width; ++i)
    in[static_cast<size_t>(i)] = static_cast<float>(i - 10000) / 1000.0F;
  std::vector<float> out(static_cast<size_t>(width));
  cpu::silu_mul(out.data(), in.data(), 1, width, stream_);
  for (size_t i = 0; i < out.size(); ++i) {
    const double want = silu(static_cast<double>(in[i]));
    ASSERT_NEAR(static_cast<double>(out[i]), want, 1e-6 * std::abs(want)) << in[i];
  }
}

TEST_P(SiluMulTest, WidthsAndTokens) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0F, 4.0F);
  for (const int32_t width : {1, 7, 8, 15, 16, 17, 1536}) {
    for (const int32_t tokens : {0, 1, 3, 20}) {
      std::vector<float> in(static_cast<size_t>(2 * tokens * width));
      for (float& x : in) x = normal(random);
      std::vector<float> out(static_cast<size_t>(tokens * width));
      cpu::silu_mul(out.data(), in.data(), tokens, width, stream_);
      for (int32_t t = 0; t < tokens; ++t) {
        const float* gate = in.data() + 2 * t * width;
        for (int32_t i = 0; i < width; ++i) {
          const double want =
              silu(static_cast<double>(gate[i])) * static_cast<double>(gate[width + i]);
          ASSERT_NEAR(static_cast<double>(out[static_cast<size_t>(t * width + i)]), want,
                      1e-5 * (1.0 + std::abs(want)));
        }
      }
    }
  }
}

TEST_P(SiluMulTest, Extremes) {
  const float nan = std::nanf("");
  const std::vector<float> in = {0.0F, 1e30F, -1e30F, 100.0F, -100.0F, nan,  88.5F, -88.5F,  // gate
                                 2.0F, 2.0F,  2.0F,   2.0F,   2.0F,    2.0F, 2.0F,  2.0F};
  std::vector<float> out(8);
  cpu::silu_mul(out.data(), in.data(), 1, 8, stream_);
  EXPECT_EQ(out[0], 0.0F);
  EXPECT_EQ(out[1], 2e30F);
  EXPECT_EQ(out[2], 0.0F);
  EXPECT_EQ(out[3], 200.0F);
  EXPECT_NEAR(out[4], 0.0F, 1e-30F);
  EXPECT_TRUE(std::isnan(out[5]));
  EXPECT_EQ(out[6], 177.0F);
  EXPECT_NEAR(out[7], 0.0F, 1e-30F);
}

INSTANTIATE_TEST_SUITE_P(Isa, SiluMulTest, testing::ValuesIn(testing_support::runnable_isas()),
                         testing_support::isa_name);

}  // namespace
}  // namespace troupe
