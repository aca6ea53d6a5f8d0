#include "gpu/base/check.h"
#include "gpu/cuda/device.h"
#include "gpu/device/stream.h"
#include "nccl/communicators.h"
#include "nccl/peer_all_reduce.h"

#include <cuda_runtime.h>
#include <nccl.h>

#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <utility>

namespace troupe {
namespace {

/// Host collectives go to `host`, those on device memory to NCCL, small sums to the own kernel.
class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> host, int32_t device_index, SmallSums small_sums)
      : host_(std::move(host)) {
    TROUPE_CUDA(cudaSetDevice(device_index));
    ncclUniqueId id;
    std::memset(&id, 0, sizeof(id));
    if (host_->rank() == 0) check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
    Stream stream(1);
    host_->broadcast(std::as_writable_bytes(std::span(&id, 1)), 0, stream);
    check_nccl(ncclCommInitRank(&comm_, host_->size(), id, host_->rank()), "ncclCommInitRank");
    if (small_sums == SmallSums::kOwnKernel) peers_ = PeerAllReduce::create(*host_);
  }
  ~NcclCommunicator() override {
    // Not ncclCommDestroy: it waits for the others, and a rank may leave alone.
    if (comm_ != nullptr) ncclCommAbort(comm_);
    if (ending_.joinable()) ending_.join();
  }

  [[nodiscard]] int32_t rank() const override { return host_->rank(); }
  [[nodiscard]] int32_t size() const override { return host_->size(); }
  void all_reduce_sum(std::span<float> data, Stream& stream) override {
    host_->all_reduce_sum(data, stream);
  }
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                  Stream& stream) override {
    host_->all_gather(mine, all, stream);
  }
  void broadcast(std::span<std::byte> data, int32_t root, Stream& stream) override {
    host_->broadcast(data, root, stream);
  }
  void device_all_reduce_sum(void* bf16, int64_t count, void* cuda_stream) override {
    check_alive();
    auto* const stream = static_cast<cudaStream_t>(cuda_stream);
    if (peers_ && peers_->takes(bf16, count)) return peers_->run(bf16, count, stream);
    check_nccl(
        ncclAllReduce(bf16, bf16, static_cast<size_t>(count), ncclBfloat16, ncclSum, comm_, stream),
        "ncclAllReduce");
  }
  void device_all_gather(const void* mine, void* all, int64_t bytes, void* cuda_stream) override {
    check_alive();
    check_nccl(ncclAllGather(mine, all, static_cast<size_t>(bytes), ncclInt8, comm_,
                             static_cast<cudaStream_t>(cuda_stream)),
               "ncclAllGather");
  }
  void check() override {
    if (!aborted_.load(std::memory_order_relaxed)) {
      ncclResult_t state = ncclSuccess;
      check_nccl(ncclCommGetAsyncError(comm_, &state), "ncclCommGetAsyncError");
      if (state == ncclSuccess || state == ncclInProgress) return;
      aborted_.store(true, std::memory_order_relaxed);
      const std::string words = describe(state);
      end();
      throw DeviceError(name() + "a collective failed: " + words);
    }
    end();
    check_alive();
  }
  void abort() noexcept override {
    host_->abort();
    // The worker thread may be inside NCCL: it ends what it started itself, in check().
    aborted_.store(true, std::memory_order_relaxed);
  }

 private:
  [[nodiscard]] std::string name() const { return "rank " + std::to_string(rank()) + ": "; }
  [[nodiscard]] std::string describe(ncclResult_t result) const {
    return std::string(ncclGetErrorString(result)) + ", " + ncclGetLastError(comm_);
  }
  void check_nccl(ncclResult_t result, const char* call) const {
    if (result == ncclSuccess || result == ncclInProgress) return;
    throw DeviceError(name() + call + " failed: " + describe(result));
  }
  void check_alive() const {
    if (aborted_.load(std::memory_order_relaxed))
      throw DeviceError(name() + "communicator was aborted");
  }
  /// Kernels that wait for a peer end. Worker thread.
  void end() {
    if (peers_) peers_->stop();
    // On a thread of its own: NCCL waits for the graphs that use the communicator to be destroyed.
    if (comm_ != nullptr)
      ending_ = std::thread([comm = std::exchange(comm_, nullptr)] { ncclCommAbort(comm); });
  }

  std::unique_ptr<Communicator> host_;
  ncclComm_t comm_ = nullptr;
  std::unique_ptr<PeerAllReduce> peers_;  // null: NCCL sums everything
  std::atomic<bool> aborted_{false};
  std::thread ending_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host,
                                                     int32_t device_index, SmallSums small_sums) {
  return std::make_unique<NcclCommunicator>(std::move(host), device_index, small_sums);
}

}  // namespace troupe
