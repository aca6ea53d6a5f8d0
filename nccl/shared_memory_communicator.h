#pragma once

#include "gpu/communicator.h"

#include <atomic>
#include <memory>
#include <vector>

namespace troupe {

/// Collectives through memory that all ranks see: threads of one process, or processes of one host
/// that share a mapping.
///
/// Work proceeds in phases. In a phase every rank writes its own buffer, publishes the phase number
/// and waits until all have published it; then it may read all buffers. Two buffers alternate: a
/// rank that writes in phase p + 2 knows that all have published p + 1, which they do only when
/// they have finished reading phase p. So one barrier a phase is enough.
class SharedMemoryCommunicator final : public Communicator {
 public:
  /// Bytes that `n` ranks need. They must be zero before any rank uses them, and 64-byte aligned.
  static size_t region_bytes(int32_t n);

  /// `region` is shared by the ranks of this process (threads), or names a mapping that other
  /// processes map too.
  SharedMemoryCommunicator(std::shared_ptr<std::byte> region, int32_t rank, int32_t n);

  [[nodiscard]] int32_t rank() const override { return rank_; }
  [[nodiscard]] int32_t size() const override { return n_; }
  void all_reduce_sum(std::span<float> data, Stream& stream) override;
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                  Stream& stream) override;
  void broadcast(std::span<std::byte> data, int32_t root, Stream& stream) override;
  void abort() noexcept override;

 private:
  struct Header;

  [[nodiscard]] Header& header() const;
  [[nodiscard]] std::byte* buffer(int32_t rank) const;  // of the current phase
  void check_alive() const;
  void publish_and_wait();

  std::shared_ptr<std::byte> region_;
  int32_t rank_;
  int32_t n_;
  uint64_t phase_ = 0;
  std::vector<const float*> parts_;  // [n], scratch
};

}  // namespace troupe
