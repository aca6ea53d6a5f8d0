#include "gpu/base/check.h"
#include "gpu/cuda/device.h"
#include "gpu/device/stream.h"
#include "nccl/communicators.h"

#include <cuda_runtime.h>
#include <nccl.h>

#include <atomic>
#include <cstring>
#include <string>
#include <utility>

namespace troupe {
namespace {

void check_nccl(ncclResult_t result, const char* call) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  throw DeviceError(std::string(call) + " failed: " + ncclGetErrorString(result));
}

/// Host collectives go to `host`, those on device memory to NCCL.
class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> host, int32_t device_index)
      : host_(std::move(host)) {
    TROUPE_CUDA(cudaSetDevice(device_index));
    ncclUniqueId id;
    std::memset(&id, 0, sizeof(id));
    if (host_->rank() == 0) check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
    Stream stream(1);
    host_->broadcast(std::as_writable_bytes(std::span(&id, 1)), 0, stream);
    check_nccl(ncclCommInitRank(&comm_, host_->size(), id, host_->rank()), "ncclCommInitRank");
  }
  ~NcclCommunicator() override {
    // Not ncclCommDestroy: it waits for the others, and a rank may leave alone.
    if (!aborted_.exchange(true)) ncclCommAbort(comm_);
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
    check_nccl(ncclAllReduce(bf16, bf16, static_cast<size_t>(count), ncclBfloat16, ncclSum, comm_,
                             static_cast<cudaStream_t>(cuda_stream)),
               "ncclAllReduce");
  }
  void device_all_gather(const void* mine, void* all, int64_t bytes, void* cuda_stream) override {
    check_nccl(ncclAllGather(mine, all, static_cast<size_t>(bytes), ncclInt8, comm_,
                             static_cast<cudaStream_t>(cuda_stream)),
               "ncclAllGather");
  }
  void abort() noexcept override {
    host_->abort();
    if (!aborted_.exchange(true)) ncclCommAbort(comm_);
  }

 private:
  std::unique_ptr<Communicator> host_;
  ncclComm_t comm_ = nullptr;
  std::atomic<bool> aborted_{false};
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host,
                                                     int32_t device_index) {
  return std::make_unique<NcclCommunicator>(std::move(host), device_index);
}

}  // namespace troupe
