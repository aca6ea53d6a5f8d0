#include "tests/support/router_chaos.h"

#include <gtest/gtest.h>

#include <string>

namespace troupe {
namespace {

// A sanitizer makes a seed thirty times as long.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint32_t kSeeds = 250;
#else
constexpr uint32_t kSeeds = 2500;
#endif

// Four cases, so that they can run beside each other.
class Chaos : public testing::TestWithParam<uint32_t> {};

TEST_P(Chaos, EveryRequestGetsExactlyItsTokensAndTheBooksBalance) {
  uint64_t pauses = 0;
  for (uint32_t i = 0; i < kSeeds; ++i) {
    const uint32_t seed = GetParam() * kSeeds + i;
    ASSERT_EQ(test::chaos(seed, &pauses), "") << "seed " << seed;
  }
  EXPECT_GT(pauses, kSeeds / 20);  // the traffic did exhaust pools
}

INSTANTIATE_TEST_SUITE_P(Seeds, Chaos, testing::Values(0U, 1U, 2U, 3U));

}  // namespace
}  // namespace troupe
