#include "gpu/base/check.h"
#include "nccl/communicators.h"
#include "nccl/rank_order_sum.h"
#include "nccl/shared_memory_communicator.h"
#include "nccl/spin_wait.h"

#include <mpi.h>

#include <algorithm>
#include <atomic>
#include <string>

namespace troupe {
namespace {

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw DeviceError(std::string(call) + ": " + text);
}

int32_t comm_rank(MPI_Comm comm) {
  int rank = 0;
  check_mpi(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank");
  return rank;
}

int32_t comm_size(MPI_Comm comm) {
  int size = 0;
  check_mpi(MPI_Comm_size(comm, &size), "MPI_Comm_size");
  return size;
}

/// Ranks on different hosts. Gathers and adds up locally, because MPI_Allreduce may add in another
/// order for another length.
class MessageCommunicator final : public Communicator {
 public:
  explicit MessageCommunicator(MPI_Comm comm)
      : comm_(comm), rank_(comm_rank(comm)), n_(comm_size(comm)) {}

  [[nodiscard]] int32_t rank() const override { return rank_; }
  [[nodiscard]] int32_t size() const override { return n_; }

  void all_reduce_sum(std::span<float> data, Stream& /*stream*/) override {
    check_alive();
    gathered_.resize(static_cast<size_t>(n_) * std::min(data.size(), kChunkFloats));
    std::vector<const float*> parts(static_cast<size_t>(n_));
    for (size_t at = 0; at < data.size(); at += kChunkFloats) {
      const std::span<float> chunk = data.subspan(at, std::min(kChunkFloats, data.size() - at));
      const auto count = static_cast<int>(chunk.size());
      MPI_Request request = MPI_REQUEST_NULL;
      check_mpi(MPI_Iallgather(chunk.data(), count, MPI_FLOAT, gathered_.data(), count, MPI_FLOAT,
                               comm_, &request),
                "MPI_Iallgather");
      wait(request);
      for (size_t r = 0; r < parts.size(); ++r) parts[r] = gathered_.data() + r * chunk.size();
      rank_order_sum(chunk.data(), parts, chunk.size());
    }
  }

  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                  Stream& /*stream*/) override {
    check_alive();
    TROUPE_CHECK(all.size() == mine.size() * static_cast<size_t>(n_))
        << all.size() << " for " << n_ << " x " << mine.size();
    const int count = message_bytes(mine.size());
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(
        MPI_Iallgather(mine.data(), count, MPI_BYTE, all.data(), count, MPI_BYTE, comm_, &request),
        "MPI_Iallgather");
    wait(request);
  }

  void broadcast(std::span<std::byte> data, int32_t root, Stream& /*stream*/) override {
    check_alive();
    TROUPE_CHECK(root >= 0 && root < n_) << root << " of " << n_;
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Ibcast(data.data(), message_bytes(data.size()), MPI_BYTE, root, comm_, &request),
              "MPI_Ibcast");
    wait(request);
  }

  void abort() noexcept override { aborted_.store(true, std::memory_order_relaxed); }

 private:
  static constexpr size_t kChunkFloats = size_t{64} << 10;

  static int message_bytes(size_t bytes) {
    TROUPE_CHECK(bytes <= size_t{1} << 30) << bytes;  // an MPI count is an int
    return static_cast<int>(bytes);
  }

  void check_alive() const {
    if (aborted_.load(std::memory_order_relaxed))
      throw DeviceError("rank " + std::to_string(rank_) + ": communicator was aborted");
  }

  void wait(MPI_Request request) const {
    SpinWait spin(n_);
    for (;;) {
      int done = 0;
      check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (done != 0) return;
      check_alive();
      spin.pause();
    }
  }

  MPI_Comm comm_;
  int32_t rank_;
  int32_t n_;
  std::atomic<bool> aborted_{false};
  std::vector<float> gathered_;
};

/// A zeroed region that all ranks of `host` map. Lives until MPI_Finalize.
std::shared_ptr<std::byte> map_shared_region(MPI_Comm host) {
  constexpr size_t kAlign = 64;
  const size_t bytes = SharedMemoryCommunicator::region_bytes(comm_size(host));
  const bool first = comm_rank(host) == 0;
  void* base = nullptr;
  MPI_Win window = MPI_WIN_NULL;
  check_mpi(MPI_Win_allocate_shared(first ? static_cast<MPI_Aint>(bytes + kAlign) : 0, 1,
                                    MPI_INFO_NULL, host, &base, &window),
            "MPI_Win_allocate_shared");
  MPI_Aint size = 0;
  int unit = 0;
  check_mpi(MPI_Win_shared_query(window, 0, &size, &unit, &base), "MPI_Win_shared_query");
  // An access epoch that never ends: ordering is by the atomics inside the region.
  check_mpi(MPI_Win_lock_all(MPI_MODE_NOCHECK, window), "MPI_Win_lock_all");
  // Mappings start at pages, so the same offset aligns the region for every rank.
  const auto address = reinterpret_cast<uintptr_t>(base);
  auto* region = static_cast<std::byte*>(base) + (kAlign - address % kAlign) % kAlign;
  if (first) std::fill_n(region, bytes, std::byte{0});
  check_mpi(MPI_Barrier(host), "MPI_Barrier");
  return {region, [](std::byte*) {}};
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(MpiTransport transport) {
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Query_thread(&provided), "MPI_Query_thread");
  if (provided != MPI_THREAD_MULTIPLE)
    throw DeviceError("MPI was initialised without MPI_THREAD_MULTIPLE; its level is " +
                      std::to_string(provided));
  MPI_Comm world = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &world), "MPI_Comm_dup");
  check_mpi(MPI_Comm_set_errhandler(world, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  if (transport == MpiTransport::kAuto) {
    MPI_Comm host = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host),
              "MPI_Comm_split_type");
    const int32_t n = comm_size(world);
    // Either all ranks see this or none does, so they agree without another message.
    if (comm_size(host) == n)
      return std::make_unique<SharedMemoryCommunicator>(map_shared_region(host), comm_rank(host),
                                                        n);
  }
  return std::make_unique<MessageCommunicator>(world);
}

}  // namespace troupe
