// Ranks on threads that share one GPU: the protocol of the kernel, not its speed.
#include "nccl/peer_all_reduce.h"

#include "gpu/base/half.h"
#include "gpu/device/stream.h"
#include "nccl/communicators.h"
#include "tests/support/cuda_device.h"
#include "tests/support/run_ranks.h"
#include "tests/support/tiny_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <thread>
#include <vector>

namespace troupe {
namespace {

using Clock = std::chrono::steady_clock;

/// One rank's device side, made before any rank computes: on a shared GPU allocating could wait for
/// another rank's kernel, which waits for this one.
struct Rank {
  explicit Rank(Communicator& host, int64_t count)
      : sums(PeerAllReduce::create(host)), data(static_cast<size_t>(count)) {
    TROUPE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    uint16_t* pinned = nullptr;
    TROUPE_CUDA(cudaHostAlloc(&pinned, data.bytes(), cudaHostAllocDefault));
    staged = pinned;
  }
  ~Rank() {
    cudaFreeHost(staged);
    cudaStreamDestroy(stream);
  }
  Rank(const Rank&) = delete;
  Rank& operator=(const Rank&) = delete;

  void put(const std::vector<uint16_t>& values) {
    std::copy(values.begin(), values.end(), staged);
    TROUPE_CUDA(
        cudaMemcpyAsync(data.data(), staged, values.size() * 2, cudaMemcpyHostToDevice, stream));
  }
  std::vector<uint16_t> get(size_t n) {
    TROUPE_CUDA(cudaMemcpyAsync(staged, data.data(), n * 2, cudaMemcpyDeviceToHost, stream));
    TROUPE_CUDA(cudaStreamSynchronize(stream));
    return {staged, staged + n};
  }

  std::unique_ptr<PeerAllReduce> sums;
  cuda::DeviceBuffer<uint16_t> data;
  cudaStream_t stream = nullptr;
  uint16_t* staged = nullptr;
};

std::vector<uint16_t> random_values(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint16_t> out(n);
  for (uint16_t& v : out)
    v = test::bf16_from_float(static_cast<float>(random() >> 8) * 0x1p-20F - 8.0F);
  return out;
}

void wait_for_all(Communicator& host) {
  Stream threads(1);
  const std::byte mine{0};
  std::vector<std::byte> all(static_cast<size_t>(host.size()));
  host.all_gather(std::span(&mine, 1), all, threads);
}

class PeerAllReduceTest : public test::CudaTest, public ::testing::WithParamInterface<int32_t> {};

/// Lengths follow each other without a pause, so that ranks run ahead of one another.
TEST_P(PeerAllReduceTest, AddsInRankOrderAndRoundsOnce) {
  const int32_t n_ranks = GetParam();
  const int64_t most = PeerAllReduce::kMaxBytes / 2 / std::max(n_ranks - 1, 1) / 4 * 4;
  test::run_ranks(n_ranks, [&](Communicator& host) {
    Rank rank(host, most);
    ASSERT_NE(rank.sums, nullptr);
    ASSERT_TRUE(rank.sums->takes(rank.data.data(), most));
    ASSERT_FALSE(rank.sums->takes(rank.data.data(), most + 3));
    wait_for_all(host);  // everybody has its memory
    uint32_t round = 0;
    for (int repeat = 0; repeat < 30; ++repeat)
      for (const int64_t count : {int64_t{4}, int64_t{256}, int64_t{4096}, int64_t{12288}, most}) {
        const auto n = static_cast<size_t>(count);
        ++round;
        const auto seed = [&](int32_t r) { return round * 100 + static_cast<uint32_t>(r); };
        rank.put(random_values(n, seed(host.rank())));
        rank.sums->run(rank.data.data(), count, rank.stream);
        const std::vector<uint16_t> got = rank.get(n);
        if (repeat % 10 != 0) continue;
        std::vector<float> sum(n, 0.0F);
        for (int32_t r = 0; r < n_ranks; ++r) {
          const auto part = random_values(n, seed(r));
          for (size_t i = 0; i < n; ++i) sum[i] += float_from_bf16(part[i]);
        }
        size_t wrong = 0;
        for (size_t i = 0; i < n; ++i) wrong += got[i] == test::bf16_from_float(sum[i]) ? 0 : 1;
        EXPECT_EQ(wrong, 0U) << count << " values, repeat " << repeat;
      }
  });
}
INSTANTIATE_TEST_SUITE_P(Ranks, PeerAllReduceTest, ::testing::Values(1, 2, 3, 4));

class PeerAllReduceStop : public test::CudaTest {};

TEST_F(PeerAllReduceStop, FreesARankThatWaits) {
  test::run_ranks(2, [](Communicator& host) {
    Rank rank(host, 4096);
    ASSERT_NE(rank.sums, nullptr);
    if (host.rank() != 0) return wait_for_all(host);  // does not add; keeps its memory until then
    rank.put(random_values(4096, 1));
    rank.sums->run(rank.data.data(), 4096, rank.stream);
    EXPECT_EQ(cudaStreamQuery(rank.stream), cudaErrorNotReady);
    rank.sums->stop();
    const auto begin = Clock::now();
    while (cudaStreamQuery(rank.stream) == cudaErrorNotReady)
      ASSERT_LT(Clock::now() - begin, std::chrono::seconds(10)) << "the kernel does not end";
    EXPECT_EQ(cudaStreamQuery(rank.stream), cudaSuccess);
    wait_for_all(host);
  });
}

}  // namespace
}  // namespace troupe
