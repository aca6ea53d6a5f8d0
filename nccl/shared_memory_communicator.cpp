#include "nccl/shared_memory_communicator.h"

#include "gpu/base/check.h"
#include "nccl/rank_order_sum.h"
#include "nccl/spin_wait.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace troupe {
namespace {

constexpr size_t kBufferBytes = size_t{256} << 10;  // stays in the second-level cache
constexpr int32_t kMaxRanks = 64;
// From here each rank adds up only its share and copies the rest: less to read with three or more.
constexpr size_t kScatterFloats = 8192;

}  // namespace

/// Start of the region; the buffers follow, [rank][parity][kBufferBytes]. A cache line each.
struct SharedMemoryCommunicator::Header {
  struct alignas(64) Published {
    std::atomic<uint64_t> phase;
  };
  alignas(64) std::atomic<uint32_t> aborted;
  Published published[kMaxRanks];
};

size_t SharedMemoryCommunicator::region_bytes(int32_t n) {
  static_assert(std::atomic<uint64_t>::is_always_lock_free);
  return sizeof(Header) + static_cast<size_t>(n) * 2 * kBufferBytes;
}

SharedMemoryCommunicator::SharedMemoryCommunicator(std::shared_ptr<std::byte> region, int32_t rank,
                                                   int32_t n)
    : region_(std::move(region)), rank_(rank), n_(n), parts_(static_cast<size_t>(n)) {
  TROUPE_CHECK(n >= 1 && n <= kMaxRanks && rank >= 0 && rank < n) << rank << " of " << n;
}

SharedMemoryCommunicator::Header& SharedMemoryCommunicator::header() const {
  return *reinterpret_cast<Header*>(region_.get());
}

std::byte* SharedMemoryCommunicator::buffer(int32_t rank) const {
  const size_t index = static_cast<size_t>(rank) * 2 + (phase_ & 1);
  return region_.get() + sizeof(Header) + index * kBufferBytes;
}

void SharedMemoryCommunicator::check_alive() const {
  if (header().aborted.load(std::memory_order_relaxed) != 0)
    throw DeviceError("rank " + std::to_string(rank_) + ": communicator was aborted");
}

void SharedMemoryCommunicator::publish_and_wait() {
  Header& shared = header();
  shared.published[rank_].phase.store(phase_, std::memory_order_release);
  SpinWait wait(n_);
  for (int32_t r = 0; r < n_; ++r) {
    while (shared.published[r].phase.load(std::memory_order_acquire) < phase_) {
      check_alive();
      wait.pause();
    }
  }
}

void SharedMemoryCommunicator::all_reduce_sum(std::span<float> data, Stream& /*stream*/) {
  check_alive();
  if (n_ == 1) return;
  constexpr size_t kChunk = kBufferBytes / sizeof(float);
  for (size_t at = 0; at < data.size(); at += kChunk) {
    const std::span<float> chunk = data.subspan(at, std::min(kChunk, data.size() - at));
    ++phase_;
    std::memcpy(buffer(rank_), chunk.data(), chunk.size_bytes());
    publish_and_wait();
    const auto set_parts = [&](size_t offset) {
      for (int32_t r = 0; r < n_; ++r)
        parts_[static_cast<size_t>(r)] = reinterpret_cast<const float*>(buffer(r)) + offset;
    };
    if (n_ == 2 || chunk.size() < kScatterFloats) {
      set_parts(0);
      rank_order_sum(chunk.data(), parts_, chunk.size());
      continue;
    }
    const auto share_begin = [&](int32_t r) {
      return chunk.size() * static_cast<size_t>(r) / static_cast<size_t>(n_);
    };
    const size_t mine = share_begin(rank_);
    set_parts(mine);
    ++phase_;
    rank_order_sum(reinterpret_cast<float*>(buffer(rank_)) + mine, parts_,
                   share_begin(rank_ + 1) - mine);
    publish_and_wait();
    for (int32_t r = 0; r < n_; ++r) {
      const float* sums = reinterpret_cast<const float*>(buffer(r));
      std::copy(sums + share_begin(r), sums + share_begin(r + 1),
                chunk.begin() + static_cast<std::ptrdiff_t>(share_begin(r)));
    }
  }
}

void SharedMemoryCommunicator::all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                                          Stream& /*stream*/) {
  check_alive();
  TROUPE_CHECK(all.size() == mine.size() * static_cast<size_t>(n_))
      << all.size() << " for " << n_ << " x " << mine.size();
  for (size_t at = 0; at < mine.size(); at += kBufferBytes) {
    const size_t bytes = std::min(kBufferBytes, mine.size() - at);
    ++phase_;
    std::memcpy(buffer(rank_), mine.data() + at, bytes);
    publish_and_wait();
    for (int32_t r = 0; r < n_; ++r)
      std::memcpy(all.data() + static_cast<size_t>(r) * mine.size() + at, buffer(r), bytes);
  }
}

void SharedMemoryCommunicator::broadcast(std::span<std::byte> data, int32_t root,
                                         Stream& /*stream*/) {
  check_alive();
  TROUPE_CHECK(root >= 0 && root < n_) << root << " of " << n_;
  for (size_t at = 0; at < data.size(); at += kBufferBytes) {
    const size_t bytes = std::min(kBufferBytes, data.size() - at);
    ++phase_;
    if (rank_ == root) std::memcpy(buffer(root), data.data() + at, bytes);
    publish_and_wait();
    if (rank_ != root) std::memcpy(data.data() + at, buffer(root), bytes);
  }
}

void SharedMemoryCommunicator::abort() noexcept {
  header().aborted.store(1, std::memory_order_relaxed);
}

}  // namespace troupe
