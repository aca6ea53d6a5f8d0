#pragma once

#include "gpu/base/check.h"
#include "gpu/communicator.h"
#include "gpu/device/stream.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <numeric>
#include <vector>

namespace troupe {

/// What every communicator must do. A harness type has run(body): calls body(Communicator&) once
/// for every rank that lives in this process, each on its own thread.
template <class Harness>
class CommunicatorSuite : public testing::Test {
 protected:
  Harness harness_;
};
TYPED_TEST_SUITE_P(CommunicatorSuite);

// From one float over the size of a hidden vector to more than any internal buffer holds.
inline const std::vector<size_t> kLengths = {0,    1,    3,     16,    576,    577,
                                             8191, 8193, 65536, 65537, 294912, 300001};

TYPED_TEST_P(CommunicatorSuite, RanksAreNumbered) {
  this->harness_.run([](Communicator& c) {
    EXPECT_GE(c.size(), 1);
    EXPECT_GE(c.rank(), 0);
    EXPECT_LT(c.rank(), c.size());
  });
}

TYPED_TEST_P(CommunicatorSuite, AllReduceSumsWholeNumbersExactly) {
  this->harness_.run([](Communicator& c) {
    Stream stream(1);
    const auto n = static_cast<size_t>(c.size());
    for (const size_t length : kLengths) {
      std::vector<float> data(length);
      for (size_t i = 0; i < length; ++i)
        data[i] = static_cast<float>(i % 1000 + 1000 * static_cast<size_t>(c.rank()));
      c.all_reduce_sum(data, stream);
      size_t wrong = 0;
      for (size_t i = 0; i < length; ++i)
        wrong += data[i] != static_cast<float>(n * (i % 1000) + 1000 * n * (n - 1) / 2) ? 1 : 0;
      EXPECT_EQ(wrong, 0U) << "length " << length;
    }
  });
}

TYPED_TEST_P(CommunicatorSuite, AllReduceAddsInRankOrderWhateverTheLength) {
  // 2^24 swallows a single 1 but not two that were added up before: every order has its own sum.
  const auto value = [](int32_t rank) {
    return rank == 1 ? 16777216.0F : rank == 3 ? -5.0F : 1.0F;
  };
  this->harness_.run([&](Communicator& c) {
    Stream stream(1);
    float expected = value(0);
    for (int32_t r = 1; r < c.size(); ++r) expected += value(r);
    for (const size_t length : kLengths) {
      std::vector<float> data(length, value(c.rank()));
      c.all_reduce_sum(data, stream);
      for (size_t i = 0; i < length; ++i) {
        if (std::bit_cast<uint32_t>(data[i]) == std::bit_cast<uint32_t>(expected)) continue;
        ADD_FAILURE() << data[i] << " not " << expected << " at " << i << " of " << length;
        break;
      }
    }
  });
}

TYPED_TEST_P(CommunicatorSuite, AllReduceKeepsNonFiniteValues) {
  this->harness_.run([](Communicator& c) {
    Stream stream(1);
    std::vector<float> data = {c.rank() == 0 ? INFINITY : 1.0F, c.rank() == 0 ? NAN : 1.0F, 1.0F};
    c.all_reduce_sum(data, stream);
    EXPECT_EQ(data[0], INFINITY);
    EXPECT_TRUE(std::isnan(data[1]));
    EXPECT_EQ(data[2], static_cast<float>(c.size()));
  });
}

TYPED_TEST_P(CommunicatorSuite, AllGatherIsInRankOrder) {
  this->harness_.run([](Communicator& c) {
    Stream stream(1);
    for (const size_t length : {size_t{0}, size_t{1}, size_t{12}, size_t{4096}, size_t{600001}}) {
      const auto byte_of = [](int32_t rank, size_t i) {
        return static_cast<std::byte>((i * 7 + static_cast<size_t>(rank) * 31) % 251);
      };
      std::vector<std::byte> mine(length);
      for (size_t i = 0; i < length; ++i) mine[i] = byte_of(c.rank(), i);
      std::vector<std::byte> all(length * static_cast<size_t>(c.size()));
      c.all_gather(mine, all, stream);
      size_t wrong = 0;
      for (int32_t r = 0; r < c.size(); ++r)
        for (size_t i = 0; i < length; ++i)
          wrong += all[static_cast<size_t>(r) * length + i] != byte_of(r, i) ? 1 : 0;
      EXPECT_EQ(wrong, 0U) << "length " << length;
    }
  });
}

TYPED_TEST_P(CommunicatorSuite, BroadcastFromEveryRoot) {
  this->harness_.run([](Communicator& c) {
    Stream stream(1);
    for (int32_t root = 0; root < c.size(); ++root) {
      for (const size_t length : {size_t{0}, size_t{1}, size_t{600001}}) {
        std::vector<std::byte> data(length, static_cast<std::byte>(c.rank() + 1));
        c.broadcast(data, root, stream);
        EXPECT_EQ(data, std::vector<std::byte>(length, static_cast<std::byte>(root + 1)));
      }
    }
  });
}

// Fast and slow ranks, short and long calls mixed: a buffer that is reused too early shows here.
TYPED_TEST_P(CommunicatorSuite, ManyCallsInARow) {
  this->harness_.run([](Communicator& c) {
    Stream stream(1);
    const auto n = static_cast<float>(c.size());
    std::vector<float> data(20000);
    size_t wrong = 0;
    for (int32_t i = 0; i < 2000; ++i) {
      const size_t length = i % 100 == 99 ? data.size() : static_cast<size_t>(1 + i % 7);
      const std::span<float> part = std::span(data).first(length);
      std::fill(part.begin(), part.end(), static_cast<float>(i));
      c.all_reduce_sum(part, stream);
      for (const float v : part) wrong += v != n * static_cast<float>(i) ? 1 : 0;
      std::vector<int32_t> ranks(static_cast<size_t>(c.size()));
      const int32_t mine = c.rank() + i;
      c.all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(ranks)),
                   stream);
      for (int32_t r = 0; r < c.size(); ++r)
        wrong += ranks[static_cast<size_t>(r)] != r + i ? 1 : 0;
    }
    EXPECT_EQ(wrong, 0U);
  });
}

REGISTER_TYPED_TEST_SUITE_P(CommunicatorSuite, RanksAreNumbered, AllReduceSumsWholeNumbersExactly,
                            AllReduceAddsInRankOrderWhateverTheLength,
                            AllReduceKeepsNonFiniteValues, AllGatherIsInRankOrder,
                            BroadcastFromEveryRoot, ManyCallsInARow);

}  // namespace troupe
