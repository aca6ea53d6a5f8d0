// Runs under mpirun, one process a rank: every process executes the same cases in the same order.
// With fewer GPUs than ranks several share one, NCCL by way of sockets (slow) and without the own
// kernel for small sums, whose ranks could not run side by side.
#include "gpu/base/check.h"
#include "gpu/base/half.h"
#include "gpu/cuda/executor.h"
#include "gpu/device/stream.h"
#include "nccl/communicators.h"
#include "tests/gpu/cuda/tensor_parallel.h"
#include "tests/support/cuda_device.h"
#include "tests/support/temp_dir.h"

#include <gtest/gtest.h>
#include <mpi.h>

#include <chrono>
#include <cstdlib>
#include <span>
#include <thread>
#include <vector>

namespace troupe {
namespace {

using Clock = std::chrono::steady_clock;

int32_t gpus() {
  int n = 0;
  return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}
int32_t world_rank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}
int32_t world_size() {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}
bool gpus_are_shared() { return gpus() < world_size(); }

class Nccl : public test::CudaTest, public ::testing::WithParamInterface<SmallSums> {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    if (GetParam() == SmallSums::kOwnKernel && gpus_are_shared())
      GTEST_SKIP() << "fewer GPUs than ranks";
    communicator_ = make_nccl_communicator(make_mpi_communicator(), device(), GetParam());
    TROUPE_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  }
  void TearDown() override {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }
  static int32_t device() { return world_rank() % gpus(); }

  std::unique_ptr<Communicator> communicator_;
  cudaStream_t stream_ = nullptr;
};

/// Whole numbers below 2^8: exact in bf16, and so are their sums.
float value(int64_t i, int32_t rank, int32_t round) {
  return static_cast<float>((i * 7 + rank * 3 + round) % 13);
}

void put(void* to, int64_t count, int32_t rank, int32_t round, cudaStream_t stream) {
  std::vector<uint16_t> bits(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    bits[static_cast<size_t>(i)] = test::bf16_from_float(value(i, rank, round));
  TROUPE_CUDA(cudaMemcpyAsync(to, bits.data(), bits.size() * 2, cudaMemcpyHostToDevice, stream));
  TROUPE_CUDA(cudaStreamSynchronize(stream));
}

int64_t wrong_sums(const void* data, int64_t count, int32_t n_ranks, int32_t round,
                   cudaStream_t stream) {
  std::vector<uint16_t> bits(static_cast<size_t>(count));
  TROUPE_CUDA(cudaMemcpyAsync(bits.data(), data, bits.size() * 2, cudaMemcpyDeviceToHost, stream));
  TROUPE_CUDA(cudaStreamSynchronize(stream));
  int64_t wrong = 0;
  for (int64_t i = 0; i < count; ++i) {
    float sum = 0.0F;
    for (int32_t r = 0; r < n_ranks; ++r) sum += value(i, r, round);
    wrong += float_from_bf16(bits[static_cast<size_t>(i)]) == sum ? 0 : 1;
  }
  return wrong;
}

TEST_P(Nccl, AllReduceSumsWholeNumbersExactly) {
  Communicator& c = *communicator_;
  for (const int64_t count : {4, 8, 256, 4096, 8192 * 3, 524288, 524292, 3000001}) {
    const cuda::DeviceBuffer<uint16_t> data(static_cast<size_t>(count));
    for (int32_t round = 0; round < 5; ++round) {
      put(data.data(), count, c.rank(), round, stream_);
      c.device_all_reduce_sum(data.data(), count, stream_);
      EXPECT_EQ(wrong_sums(data.data(), count, c.size(), round, stream_), 0) << count;
    }
  }
}

/// Many calls in a row, lengths mixed and ranks out of step: a buffer that is reused too early
/// shows.
TEST_P(Nccl, ManyCallsInARowCapturedOrNot) {
  Communicator& c = *communicator_;
  constexpr int64_t kCount = 8192;
  constexpr int32_t kRounds = 16;
  const int32_t n_replays = gpus_are_shared() ? 2 : 50;
  const cuda::DeviceBuffer<uint16_t> data(kCount * kRounds);
  const cuda::DeviceBuffer<uint16_t> master(kCount * kRounds);
  for (int32_t r = 0; r < kRounds; ++r)
    put(master.data() + r * kCount, kCount, c.rank(), r, stream_);
  const auto sums = [&] {
    TROUPE_CUDA(cudaMemcpyAsync(data.data(), master.data(), master.bytes(),
                                cudaMemcpyDeviceToDevice, stream_));
    for (int32_t r = 0; r < kRounds; ++r)
      c.device_all_reduce_sum(data.data() + r * kCount, r % 3 == 2 ? kCount : kCount / 2, stream_);
  };
  sums();  // the library connects its ranks in the first call
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  TROUPE_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  sums();
  TROUPE_CUDA(cudaStreamEndCapture(stream_, &graph));
  TROUPE_CUDA(cudaGraphInstantiate(&executable, graph, 0));
  for (int32_t i = 0; i < n_replays; ++i) {
    if (c.rank() == i % c.size()) std::this_thread::yield();
    TROUPE_CUDA(cudaGraphLaunch(executable, stream_));
    if (i % 8 == 0) sums();
    int64_t wrong = 0;
    for (int32_t r = 0; r < kRounds; ++r)
      wrong += wrong_sums(data.data() + r * kCount, r % 3 == 2 ? kCount : kCount / 2, c.size(), r,
                          stream_);
    ASSERT_EQ(wrong, 0) << "replay " << i;
  }
  TROUPE_CUDA(cudaGraphExecDestroy(executable));
  TROUPE_CUDA(cudaGraphDestroy(graph));
}

/// fp32 sums in rank order, rounded once: 2^8 + 1 is no bf16, so each order has its own sum when
/// partial sums are rounded; and all ranks have the same bits.
TEST_P(Nccl, RanksAgreeBitForBit) {
  Communicator& c = *communicator_;
  constexpr int64_t kCount = 65536;
  std::mt19937 random(static_cast<uint32_t>(17 + c.rank()));
  std::vector<uint16_t> bits(kCount);
  for (uint16_t& b : bits)
    b = test::bf16_from_float(static_cast<float>(random() >> 8) * 0x1p-20F - 8.0F);
  const auto data = test::upload(bits);
  c.device_all_reduce_sum(data.data(), kCount, stream_);
  TROUPE_CUDA(cudaStreamSynchronize(stream_));
  const auto sums = test::download(data.data(), kCount);
  std::vector<uint16_t> all(kCount * static_cast<size_t>(c.size()));
  Stream host(1);
  c.all_gather(std::as_bytes(std::span(sums)), std::as_writable_bytes(std::span(all)), host);
  for (int32_t r = 0; r < c.size(); ++r)
    EXPECT_TRUE(std::equal(sums.begin(), sums.end(), all.begin() + r * kCount)) << r;
}

TEST_P(Nccl, AllGatherIsInRankOrder) {
  Communicator& c = *communicator_;
  for (const int64_t count : {4, 1000, 500004}) {
    const cuda::DeviceBuffer<uint16_t> mine(static_cast<size_t>(count));
    const cuda::DeviceBuffer<uint16_t> all(static_cast<size_t>(count * c.size()));
    put(mine.data(), count, c.rank(), 1, stream_);
    c.device_all_gather(mine.data(), all.data(), count * 2, stream_);
    TROUPE_CUDA(cudaStreamSynchronize(stream_));
    const auto got = test::download(all.data(), all.size());
    int64_t wrong = 0;
    for (int32_t r = 0; r < c.size(); ++r)
      for (int64_t i = 0; i < count; ++i)
        wrong += float_from_bf16(got[static_cast<size_t>(r * count + i)]) == value(i, r, 1) ? 0 : 1;
    EXPECT_EQ(wrong, 0) << count;
  }
}

/// A peer that never comes: abort() and then check() free the stream, also of a graph's kernels.
TEST_P(Nccl, AbortFreesARankThatWaits) {
  Communicator& c = *communicator_;
  const cuda::DeviceBuffer<uint16_t> data(4096);
  const auto sum = [&] { c.device_all_reduce_sum(data.data(), 4096, stream_); };
  sum();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  TROUPE_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  sum();
  TROUPE_CUDA(cudaStreamEndCapture(stream_, &graph));
  TROUPE_CUDA(cudaGraphInstantiate(&executable, graph, 0));
  TROUPE_CUDA(cudaStreamSynchronize(stream_));
  c.check();
  if (c.size() > 1 && c.rank() == 0) {  // the others do not take part
    TROUPE_CUDA(cudaGraphLaunch(executable, stream_));
    std::jthread stopper([&c] { c.abort(); });
    const auto begin = Clock::now();
    while (cudaStreamQuery(stream_) == cudaErrorNotReady) {
      ASSERT_LT(Clock::now() - begin, std::chrono::seconds(10)) << "the kernel does not end";
      try {
        c.check();
      } catch (const DeviceError&) {
      }
      std::this_thread::yield();
    }
    stopper.join();
    EXPECT_THROW(c.check(), DeviceError);
    EXPECT_THROW(sum(), DeviceError);
  }
  TROUPE_CUDA(cudaGraphExecDestroy(executable));
  TROUPE_CUDA(cudaGraphDestroy(graph));
  communicator_.reset();  // does not wait for the others
}

INSTANTIATE_TEST_SUITE_P(SmallSums, Nccl,
                         ::testing::Values(SmallSums::kNccl, SmallSums::kOwnKernel),
                         [](const auto& which) {
                           return which.param == SmallSums::kNccl ? "ByNccl" : "ByOwnKernel";
                         });

/// The executor, decode steps as graphs, against one rank on the same GPU.
class NcclExecutor : public Nccl {};

TEST_P(NcclExecutor, RanksMatchOne) {
  Communicator& c = *communicator_;
  const test::TempDir directory;
  for (const test::TpCase& what :
       {test::TpCase{"llama", 8, 4, 0, false}, test::TpCase{"qwen2", 8, 2, 0, true},
        test::TpCase{"qwen3", 6, 3, 0, false}}) {
    SCOPED_TRACE(what.architecture);
    const std::string path = directory.path() + "/" + what.architecture;
    test::write_tiny_hf(test::tp_model(what), path, DType::kBF16);
    auto model = Checkpoint::open(path);
    ASSERT_TRUE(model.ok()) << model.error().message;
    ExecutorOptions options = test::tp_options(what.fp8);
    options.device_index = device();
    cuda::Variant variant;
    variant.tune = false;
    const auto run = [&](Communicator& ranks, bool graphs, const std::vector<StepPlan>& plans) {
      variant.graphs = graphs;
      auto made = cuda::make_executor(**model, options, ranks, variant);
      EXPECT_TRUE(made.ok()) << made.error().message;
      return made.ok() ? test::run_all(**made, plans) : std::vector<StepResult>();
    };
    const auto single = make_single_communicator();
    const auto given = test::given_tokens();
    const auto expected = run(*single, true, given);
    const auto many = run(c, true, given);
    test::expect_close(expected, many, what.fp8);
    const auto own = test::free_running(1.0F);
    const auto captured = run(c, true, own);
    test::expect_identical(captured, run(c, false, own));
    // Ranks name the same tokens: the digest covers plan and tokens.
    std::vector<uint64_t> mine;
    mine.reserve(captured.size());
    for (const StepResult& r : captured) mine.push_back(r.digest);
    std::vector<uint64_t> all(mine.size() * static_cast<size_t>(c.size()));
    Stream host(1);
    c.all_gather(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(all)), host);
    for (int32_t r = 0; r < c.size(); ++r)
      EXPECT_TRUE(std::equal(mine.begin(), mine.end(),
                             all.begin() + r * static_cast<std::ptrdiff_t>(mine.size())))
          << r;
  }
}

INSTANTIATE_TEST_SUITE_P(SmallSums, NcclExecutor,
                         ::testing::Values(SmallSums::kNccl, SmallSums::kOwnKernel),
                         [](const auto& which) {
                           return which.param == SmallSums::kNccl ? "ByNccl" : "ByOwnKernel";
                         });

}  // namespace
}  // namespace troupe

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  testing::InitGoogleTest(&argc, argv);
  // Ranks of one host that share a GPU are refused; ranks of different hosts are not.
  if (troupe::gpus_are_shared())
    setenv("NCCL_HOSTID", std::to_string(troupe::world_rank()).c_str(), 1);
  const int failed = RUN_ALL_TESTS();
  MPI_Finalize();
  return failed;
}
