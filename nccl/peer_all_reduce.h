#pragma once

#include "gpu/communicator.h"
#include "gpu/cuda/device.h"

#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <memory>

namespace troupe {

/// The sum over ranks of a few bf16 values, for GPUs of one host that reach each other's memory:
/// the library takes 10-20 us whatever the size, and a decode step sums twice a layer.
///
/// One shot: each rank writes its values into an inbox that every other rank has for it, then reads
/// its own inboxes. As in NCCL's LL protocol every 8 bytes carry 4 bytes of payload and the number
/// of the call, so that their arrival needs no other signal, no fence and no clearing. Two sets of
/// inboxes alternate: who runs call c + 2 has all of call c + 1 from every peer, which had ended
/// call c before.
///
/// Plain loads and stores; no multicast.
class PeerAllReduce {
 public:
  static constexpr int32_t kMaxRanks = 8;
  static constexpr int64_t kMaxBytes = int64_t{1} << 20;

  /// On the thread's current device, for the ranks of `host`, which are processes or threads.
  /// Null on all ranks when there are more than kMaxRanks, on several hosts, or without access to
  /// each other's memory. Collective; throws DeviceError.
  static std::unique_ptr<PeerAllReduce> create(Communicator& host);
  ~PeerAllReduce();
  PeerAllReduce(const PeerAllReduce&) = delete;
  PeerAllReduce& operator=(const PeerAllReduce&) = delete;

  /// Whether a message is small enough to be worth it.
  [[nodiscard]] bool takes(const void* data, int64_t count) const;
  /// data[i] = sum over ranks in rank order, in fp32, rounded once: bitwise equal on all ranks and
  /// independent of the length. In stream order; capturable. takes(data, count) must hold.
  void run(void* bf16, int64_t count, cudaStream_t stream);
  /// Kernels that wait for a peer end, with undefined results. Any thread.
  void stop() noexcept;

 private:
  struct State {
    uint32_t sequence = 0;  // of the last call
    uint32_t ended = 0;     // blocks of the running call
  };

  explicit PeerAllReduce(Communicator& host);
  bool open_peers(Communicator& host);

  int32_t rank_;
  int32_t n_;
  cuda::DeviceBuffer<uint4> inboxes_;  // [2][from rank][kMaxBytes / 8]
  cuda::DeviceBuffer<State> state_;
  std::array<uint4*, kMaxRanks> peers_ = {};  // everyone's inboxes_ as seen from here
  std::array<bool, kMaxRanks> mapped_ = {};   // by IPC
  volatile int32_t* stopped_ = nullptr;       // pinned, read by kernels
};

}  // namespace troupe
