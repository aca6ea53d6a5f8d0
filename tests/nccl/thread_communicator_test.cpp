#include "nccl/communicators.h"
#include "tests/nccl/communicator_suite.h"

#include <atomic>
#include <functional>
#include <thread>

namespace troupe {
namespace {

struct SingleHarness {
  void run(const std::function<void(Communicator&)>& body) { body(*make_single_communicator()); }
};

template <int32_t kRanks>
struct ThreadHarness {
  void run(const std::function<void(Communicator&)>& body) {
    const auto ranks = make_thread_communicators(kRanks);
    std::vector<std::jthread> threads;
    for (const auto& rank : ranks)
      threads.emplace_back([&body, &rank] {
        EXPECT_EQ(rank->size(), kRanks);
        body(*rank);
      });
  }
};

using Harnesses = testing::Types<SingleHarness, ThreadHarness<1>, ThreadHarness<2>,
                                 ThreadHarness<3>, ThreadHarness<4>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Threads, CommunicatorSuite, Harnesses);

TEST(ThreadCommunicator, AbortFreesBlockedRanksAndFailsLaterCalls) {
  const auto ranks = make_thread_communicators(3);
  std::atomic<int32_t> failed = 0;
  std::atomic<int32_t> started = 0;
  {
    std::vector<std::jthread> threads;
    for (size_t r = 0; r < 2; ++r)  // the third never comes
      threads.emplace_back([&, r] {
        Stream stream(1);
        std::vector<float> data(16, 1.0F);
        ++started;
        try {
          ranks[r]->all_reduce_sum(data, stream);
        } catch (const DeviceError&) {
          ++failed;
        }
      });
    while (started < 2) std::this_thread::yield();
    ranks[2]->abort();
  }
  EXPECT_EQ(failed, 2);
  Stream stream(1);
  std::vector<std::byte> data(4);
  EXPECT_THROW(ranks[0]->broadcast(data, 0, stream), DeviceError);
  EXPECT_THROW(ranks[2]->all_gather(data, data, stream), DeviceError);
}

TEST(SingleCommunicator, FailsAfterAbort) {
  const auto c = make_single_communicator();
  Stream stream(1);
  std::vector<float> data(4);
  c->abort();
  EXPECT_THROW(c->all_reduce_sum(data, stream), DeviceError);
}

TEST(ThreadCommunicatorDeathTest, RefusesAGatherOfTheWrongSize) {
  const auto ranks = make_thread_communicators(1);
  Stream stream(1);
  std::vector<std::byte> data(4);
  std::vector<std::byte> all(5);
  EXPECT_DEATH(ranks[0]->all_gather(data, all, stream), "check failed");
}

}  // namespace
}  // namespace troupe
