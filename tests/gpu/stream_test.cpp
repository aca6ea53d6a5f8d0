#include "gpu/device/stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <numeric>
#include <vector>

namespace troupe {
namespace {

class StreamTest : public testing::TestWithParam<int32_t> {};

TEST_P(StreamTest, CoversEveryIndexOnceInRangesOfTheGrain) {
  Stream stream(GetParam());
  for (const int64_t n : {0, 1, 7, 8, 9, 64, 1000, 4097}) {
    for (const int64_t grain : {1, 3, 8, 5000}) {
      std::vector<int> hits(static_cast<size_t>(n), 0);
      std::atomic<bool> well_formed{true};
      stream.parallel_for(n, grain, [&](int64_t begin, int64_t end, int32_t thread) {
        const bool whole = (end - begin) % grain == 0 || end == n;
        if (!whole || begin % grain != 0 || begin >= end || thread < 0 || thread >= GetParam())
          well_formed = false;
        for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
      });
      EXPECT_TRUE(well_formed) << n << ' ' << grain;
      EXPECT_EQ(hits, std::vector<int>(static_cast<size_t>(n), 1)) << n << ' ' << grain;
    }
  }
}

// Plain, unsynchronised data written in one job and read by any thread in the next: a lost edge
// between jobs shows as a wrong value here and as a race under TSan.
TEST_P(StreamTest, JobsHappenInOrder) {
  Stream stream(GetParam());
  std::vector<int64_t> a(64, 0);
  std::vector<int64_t> b(64, 0);
  for (int64_t round = 0; round < 3000; ++round) {
    stream.parallel_for(64, 1, [&](int64_t begin, int64_t end, int32_t) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) a[i] = b[i] + 1;
    });
    stream.parallel_for(64, 1, [&](int64_t begin, int64_t end, int32_t) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) b[i] = a[63 - i];
    });
    ASSERT_EQ(std::accumulate(b.begin(), b.end(), int64_t{0}), 64 * (round + 1));
  }
}

TEST_P(StreamTest, ThreadNumbersAreNotSharedWithinAJob) {
  Stream stream(GetParam());
  std::vector<int64_t> per_thread(static_cast<size_t>(GetParam()), 0);
  for (int round = 0; round < 200; ++round) {
    stream.parallel_for(100, 1, [&](int64_t begin, int64_t end, int32_t thread) {
      per_thread[static_cast<size_t>(thread)] += end - begin;  // a race if two share the number
    });
  }
  EXPECT_EQ(std::accumulate(per_thread.begin(), per_thread.end(), int64_t{0}), 200 * 100);
}

INSTANTIATE_TEST_SUITE_P(Threads, StreamTest, testing::Values(1, 2, 3, 8));

TEST(Stream, OneThreadRunsTheWholeRangeInTheCaller) {
  Stream stream(1);
  int calls = 0;
  stream.parallel_for(1000, 1, [&](int64_t begin, int64_t end, int32_t thread) {
    ++calls;
    EXPECT_EQ(begin, 0);
    EXPECT_EQ(end, 1000);
    EXPECT_EQ(thread, 0);
  });
  EXPECT_EQ(calls, 1);
}

TEST(Stream, StartsAndStopsWithoutWork) {
  for (int i = 0; i < 50; ++i) Stream stream(4);
}

}  // namespace
}  // namespace troupe
