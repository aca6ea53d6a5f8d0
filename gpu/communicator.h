#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace troupe {

class Stream;

/// Collectives among the ranks of one replica. Every rank calls the same functions in the same
/// order from its worker thread. Failures throw DeviceError. Implementations: nccl/.
class Communicator {
 public:
  virtual ~Communicator() = default;
  [[nodiscard]] virtual int32_t rank() const = 0;
  [[nodiscard]] virtual int32_t size() const = 0;

  /// data[i] = sum over ranks, added in rank order whatever the length: bitwise equal on all ranks
  /// and independent of what else is in the buffer (batch invariance rests on this).
  virtual void all_reduce_sum(std::span<float> data, Stream& stream) = 0;
  /// all = concatenation of every rank's `mine` in rank order; all.size() == size() * mine.size().
  virtual void all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                          Stream& stream) = 0;
  virtual void broadcast(std::span<std::byte> data, int32_t root, Stream& stream) = 0;
  /// The same two on device memory, in the order of a CUDA stream (a cudaStream_t), returning
  /// before they are done; capturable. Only communicators made for GPUs and single ranks have them.
  virtual void device_all_reduce_sum(void* bf16, int64_t count, void* cuda_stream);
  virtual void device_all_gather(const void* mine, void* all, int64_t bytes, void* cuda_stream);
  /// Throws DeviceError when collectives on device memory cannot end any more: a peer or the
  /// network failed, or abort() was called. What this rank has on its streams ends after that, with
  /// undefined results. Cheap: the worker thread asks while it waits for its device.
  virtual void check() {}
  /// Makes every blocked and later call on any rank of this process fail. Any thread.
  virtual void abort() noexcept = 0;
};

}  // namespace troupe
