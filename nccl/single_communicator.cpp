#include "gpu/base/check.h"
#include "nccl/communicators.h"

#include <algorithm>
#include <atomic>

namespace troupe {
namespace {

class SingleCommunicator final : public Communicator {
 public:
  [[nodiscard]] int32_t rank() const override { return 0; }
  [[nodiscard]] int32_t size() const override { return 1; }

  void all_reduce_sum(std::span<float> /*data*/, Stream& /*stream*/) override { check_alive(); }

  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                  Stream& /*stream*/) override {
    check_alive();
    TROUPE_CHECK(all.size() == mine.size()) << all.size() << " for " << mine.size();
    std::copy(mine.begin(), mine.end(), all.begin());
  }

  void broadcast(std::span<std::byte> /*data*/, int32_t root, Stream& /*stream*/) override {
    check_alive();
    TROUPE_CHECK(root == 0) << root;
  }

  // A single rank has nothing to add; its own part of a gather is in place.
  void device_all_reduce_sum(void* /*bf16*/, int64_t /*count*/, void* /*stream*/) override {}
  void device_all_gather(const void* mine, void* all, int64_t bytes, void* /*stream*/) override {
    TROUPE_CHECK(mine == all) << "a single rank gathers " << bytes << " bytes in place only";
  }

  void abort() noexcept override { aborted_.store(true, std::memory_order_relaxed); }

 private:
  void check_alive() const {
    if (aborted_.load(std::memory_order_relaxed)) throw DeviceError("communicator was aborted");
  }

  std::atomic<bool> aborted_{false};
};

}  // namespace

std::unique_ptr<Communicator> make_single_communicator() {
  return std::make_unique<SingleCommunicator>();
}

}  // namespace troupe
