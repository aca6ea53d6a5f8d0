// Ranks on threads that share one GPU, their collectives on the host: everything of tensor
// parallelism but the library that moves the data.
#include "tests/gpu/cuda/tensor_parallel.h"

#include "gpu/base/half.h"
#include "gpu/communicator.h"
#include "gpu/device/stream.h"
#include "nccl/communicators.h"
#include "tests/support/cuda_device.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temp_dir.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace troupe {
namespace {

/// Collectives on device memory by way of the host.
class StagedCommunicator final : public Communicator {
 public:
  explicit StagedCommunicator(Communicator& host) : host_(host) {}
  [[nodiscard]] int32_t rank() const override { return host_.rank(); }
  [[nodiscard]] int32_t size() const override { return host_.size(); }
  void all_reduce_sum(std::span<float> data, Stream& stream) override {
    host_.all_reduce_sum(data, stream);
  }
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                  Stream& stream) override {
    host_.all_gather(mine, all, stream);
  }
  void broadcast(std::span<std::byte> data, int32_t root, Stream& stream) override {
    host_.broadcast(data, root, stream);
  }
  void abort() noexcept override { host_.abort(); }

  void device_all_reduce_sum(void* bf16, int64_t count, void* cuda_stream) override {
    auto* const stream = static_cast<cudaStream_t>(cuda_stream);
    std::vector<uint16_t> bits(static_cast<size_t>(count));
    TROUPE_CUDA(
        cudaMemcpyAsync(bits.data(), bf16, bits.size() * 2, cudaMemcpyDeviceToHost, stream));
    TROUPE_CUDA(cudaStreamSynchronize(stream));
    std::vector<float> values(bits.size());
    std::transform(bits.begin(), bits.end(), values.begin(), float_from_bf16);
    host_.all_reduce_sum(values, host_stream_);
    std::transform(values.begin(), values.end(), bits.begin(), test::bf16_from_float);
    TROUPE_CUDA(
        cudaMemcpyAsync(bf16, bits.data(), bits.size() * 2, cudaMemcpyHostToDevice, stream));
    TROUPE_CUDA(cudaStreamSynchronize(stream));
  }
  void device_all_gather(const void* mine, void* all, int64_t bytes, void* cuda_stream) override {
    auto* const stream = static_cast<cudaStream_t>(cuda_stream);
    std::vector<std::byte> local(static_cast<size_t>(bytes));
    std::vector<std::byte> everyones(local.size() * static_cast<size_t>(size()));
    TROUPE_CUDA(cudaMemcpyAsync(local.data(), mine, local.size(), cudaMemcpyDeviceToHost, stream));
    TROUPE_CUDA(cudaStreamSynchronize(stream));
    host_.all_gather(local, everyones, host_stream_);
    TROUPE_CUDA(
        cudaMemcpyAsync(all, everyones.data(), everyones.size(), cudaMemcpyHostToDevice, stream));
    TROUPE_CUDA(cudaStreamSynchronize(stream));
  }

 private:
  Communicator& host_;
  Stream host_stream_{1};
};

std::unique_ptr<Executor> make(const Checkpoint& model, bool fp8, Communicator& communicator,
                               bool graphs) {
  cuda::Variant variant;
  variant.graphs = graphs;  // what goes through the host cannot be captured
  variant.tune = false;
  auto made = cuda::make_executor(model, test::tp_options(fp8), communicator, variant);
  EXPECT_TRUE(made.ok()) << made.error().message;
  return made.ok() ? std::move(made).value() : nullptr;
}

class CudaTensorParallel : public test::CudaTest,
                           public ::testing::WithParamInterface<test::TpCase> {};

TEST_P(CudaTensorParallel, RanksMatchOne) {
  const test::TpCase& c = GetParam();
  const test::TempDir directory;
  const std::string path = directory.path() + "/model";
  test::write_tiny_hf(test::tp_model(c), path, DType::kBF16);
  auto model = Checkpoint::open(path);
  ASSERT_TRUE(model.ok()) << model.error().message;
  const std::vector<StepPlan> given = test::given_tokens();
  const std::vector<StepPlan> own = test::free_running(1.0F);

  const auto single = make_single_communicator();
  const auto one = make(**model, c.fp8, *single, true);
  ASSERT_NE(one, nullptr);
  const auto expected = test::run_all(*one, given);

  std::vector<std::vector<StepResult>> fed(static_cast<size_t>(c.ranks));
  std::vector<std::vector<StepResult>> went_on(fed.size());
  test::run_ranks(c.ranks, [&](Communicator& host) {
    StagedCommunicator communicator(host);
    const auto executor = make(**model, c.fp8, communicator, false);
    if (executor == nullptr) return host.abort();  // the others must not wait for it
    fed[static_cast<size_t>(host.rank())] = test::run_all(*executor, given);
    executor->reset();
    went_on[static_cast<size_t>(host.rank())] = test::run_all(*executor, own);
  });
  for (size_t r = 1; r < fed.size(); ++r) {
    test::expect_identical(fed[0], fed[r]);
    test::expect_identical(went_on[0], went_on[r]);
  }
  test::expect_close(expected, fed[0], c.fp8);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaTensorParallel,
    ::testing::Values(test::TpCase{"llama", 4, 2, 2, false}, test::TpCase{"qwen2", 4, 2, 2, false},
                      test::TpCase{"qwen3", 4, 2, 2, false}, test::TpCase{"qwen2", 4, 2, 2, true},
                      test::TpCase{"llama", 8, 4, 4, false}, test::TpCase{"qwen2", 8, 4, 4, false},
                      test::TpCase{"qwen3", 8, 4, 4, true},
                      // More ranks than KV heads; KV heads that do not divide.
                      test::TpCase{"qwen2", 8, 2, 4, false}, test::TpCase{"llama", 8, 1, 2, true},
                      test::TpCase{"qwen3", 6, 3, 2, false}, test::TpCase{"qwen2", 6, 3, 4, false}),
    [](const auto& which) {
      const test::TpCase& c = which.param;
      return std::string(c.architecture) + "_" + std::to_string(c.heads) + "_heads_on_" +
             std::to_string(c.kv_heads) + "_by_" + std::to_string(c.ranks) +
             (c.fp8 ? "_fp8" : "_bf16");
    });

}  // namespace
}  // namespace troupe
