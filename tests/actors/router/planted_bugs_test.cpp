// The test of the tests: with each of ten faults planted in the router, random traffic must notice.
// Linked with the faulty build of the router; each fault runs in a child process, because most end
// in a failed check.

#include "actors/router/planted_bug.h"
#include "tests/support/router_chaos.h"

#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>

namespace troupe {

int planted_bug = 0;

namespace {

// What random traffic cannot see, because a wrong answer only costs time: the edge of admission.
bool admission_is_exact() {
  OutputEstimator lengths;
  for (int i = 0; i < 1000; ++i) {
    for (int32_t b = 0; b <= OutputEstimator::bin(1000); ++b) lengths.reached(0, b);
    lengths.ended(0, 1000);
  }
  const Admission admission(4);
  // A prompt of 100 and an output of about 1,000.
  return admission.fits({0, 0, 100, 8000}, 0, 1200, lengths) &&
         !admission.fits({0, 0, 100, 8000}, 0, 900, lengths);
}

// Seeds until the fault was noticed, -1 if it never was.
int seeds_to_notice(int bug) {
  for (uint32_t first = 1; first <= 401; first += 40) {
    const pid_t child = fork();
    if (child == 0) {
      if (std::freopen("/dev/null", "w", stderr) == nullptr) _exit(0);
      planted_bug = bug;
      if (!admission_is_exact()) _exit(1);
      for (uint32_t seed = first; seed < first + 40; ++seed) {
        if (!test::chaos(seed).empty()) _exit(1);
      }
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return static_cast<int>(first) + 39;
  }
  return -1;
}

class PlantedBugs : public testing::TestWithParam<int> {};

TEST_P(PlantedBugs, AreNoticed) { EXPECT_GT(seeds_to_notice(GetParam()), 0); }

TEST(PlantedBugs, WithoutOneNothingIsNoticed) { EXPECT_EQ(seeds_to_notice(0), -1); }

INSTANTIATE_TEST_SUITE_P(Each, PlantedBugs, testing::Range(1, 11));

}  // namespace
}  // namespace troupe
