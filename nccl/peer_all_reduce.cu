#include "nccl/peer_all_reduce.h"

#include "gpu/base/check.h"
#include "gpu/cuda/launch.cuh"
#include "gpu/device/stream.h"

#include <cuda_bf16.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <span>
#include <string>
#include <vector>

namespace troupe {
namespace {

constexpr int32_t kThreads = 256;
constexpr int32_t kMostBlocks = 256;
constexpr int64_t kLines = PeerAllReduce::kMaxBytes / 8;  // of an inbox; a line is 4 values
constexpr int32_t kSpins = 1024;                          // between looks at the host's flag

struct Job {
  uint4* peers[PeerAllReduce::kMaxRanks];
  uint2* data;  // four bf16 each
  int32_t lines;
  int32_t rank;
  uint32_t* sequence;
  uint32_t* ended;
  const volatile int32_t* stopped;
};

__device__ __forceinline__ void send(uint4* to, uint2 v, uint32_t flag) {
  asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %2};" ::"l"(to), "r"(v.x), "r"(flag),
               "r"(v.y)
               : "memory");
}

/// The two halves of a line may become visible one after the other.
__device__ __forceinline__ uint2 receive(const uint4* from, uint32_t flag,
                                         const volatile int32_t* stopped) {
  for (int32_t spins = 1;; ++spins) {
    uint4 v;
    asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from)
                 : "memory");
    if (v.y == flag && v.w == flag) return {v.x, v.z};
    if (spins % kSpins == 0 && *stopped != 0) return {};
  }
}

__device__ __forceinline__ void add(float (&sum)[4], uint2 v) {
  const auto low = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&v.x));
  const auto high = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&v.y));
  sum[0] += low.x;
  sum[1] += low.y;
  sum[2] += high.x;
  sum[3] += high.y;
}

template <int kRanks>
__global__ void __launch_bounds__(kThreads) all_reduce_kernel(const __grid_constant__ Job job) {
  cuda::release_downstream();
  cuda::wait_for_upstream();
  uint32_t flag = *static_cast<volatile uint32_t*>(job.sequence) + 1;
  if (flag == 0) flag = 2;  // inboxes begin as zeros; even, so that they go on alternating
  const int64_t set = int64_t{flag & 1} * kRanks * kLines;
  const auto first = static_cast<int32_t>(blockIdx.x * kThreads + threadIdx.x);
  const auto stride = static_cast<int32_t>(gridDim.x) * kThreads;
  for (int32_t i = first; i < job.lines; i += stride) {
    const uint2 v = job.data[i];
#pragma unroll
    for (int p = 0; p < kRanks; ++p)
      if (p != job.rank) send(job.peers[p] + set + job.rank * kLines + i, v, flag);
  }
  const uint4* mine = job.peers[job.rank] + set;
  for (int32_t i = first; i < job.lines; i += stride) {
    float sum[4] = {};
#pragma unroll
    for (int p = 0; p < kRanks; ++p)
      add(sum, p == job.rank ? job.data[i] : receive(mine + p * kLines + i, flag, job.stopped));
    const __nv_bfloat162 low = __floats2bfloat162_rn(sum[0], sum[1]);
    const __nv_bfloat162 high = __floats2bfloat162_rn(sum[2], sum[3]);
    job.data[i] = {*reinterpret_cast<const uint32_t*>(&low),
                   *reinterpret_cast<const uint32_t*>(&high)};
  }
  __syncthreads();
  if (threadIdx.x != 0 || atomicAdd(job.ended, 1) + 1 < gridDim.x) return;
  // The last block: all have read the sequence.
  *job.ended = 0;
  *job.sequence = flag;
}

using Kernel = void (*)(Job);
Kernel kernel_for(int32_t n_ranks) {
  switch (n_ranks) {
    case 1: return all_reduce_kernel<1>;
    case 2: return all_reduce_kernel<2>;
    case 3: return all_reduce_kernel<3>;
    case 4: return all_reduce_kernel<4>;
    case 5: return all_reduce_kernel<5>;
    case 6: return all_reduce_kernel<6>;
    case 7: return all_reduce_kernel<7>;
    default: return all_reduce_kernel<8>;
  }
}

/// What a rank tells the others about its inboxes.
struct Offer {
  char boot[40] = {};  // names the running host
  pid_t process = 0;
  int device = 0;
  uint4* address = nullptr;
  cudaIpcMemHandle_t handle = {};
};

std::string boot_id() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  return id;
}

template <class T>
std::vector<T> gather(const T& mine, Communicator& host) {
  Stream stream(1);
  std::vector<T> all(static_cast<size_t>(host.size()));
  host.all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)),
                  stream);
  return all;
}

/// False when CUDA refuses; the refusal is forgotten.
bool works(cudaError_t result) {
  if (result == cudaSuccess) return true;
  cudaGetLastError();
  return false;
}

}  // namespace

PeerAllReduce::PeerAllReduce(Communicator& host)
    : rank_(host.rank()),
      n_(host.size()),
      inboxes_(static_cast<size_t>(2 * n_ * kLines)),
      state_(1) {
  TROUPE_CUDA(cudaMemset(inboxes_.data(), 0, inboxes_.bytes()));
  TROUPE_CUDA(cudaMemset(state_.data(), 0, state_.bytes()));
  TROUPE_CUDA(cudaDeviceSynchronize());
  void* flag = nullptr;
  TROUPE_CUDA(cudaHostAlloc(&flag, sizeof(int32_t), cudaHostAllocDefault));
  stopped_ = static_cast<volatile int32_t*>(flag);
  *stopped_ = 0;
}

PeerAllReduce::~PeerAllReduce() {
  for (size_t r = 0; r < kMaxRanks; ++r)
    if (mapped_[r]) cudaIpcCloseMemHandle(peers_[r]);
  cudaFreeHost(const_cast<int32_t*>(stopped_));
}

bool PeerAllReduce::open_peers(Communicator& host) {
  Offer mine;
  const std::string boot = boot_id();
  std::copy_n(boot.begin(), std::min(boot.size(), sizeof(mine.boot) - 1), mine.boot);
  mine.process = getpid();
  mine.address = inboxes_.data();
  TROUPE_CUDA(cudaGetDevice(&mine.device));
  bool open = works(cudaIpcGetMemHandle(&mine.handle, inboxes_.data()));
  const std::vector<Offer> offers = gather(mine, host);
  for (size_t r = 0; r < offers.size() && open; ++r) {
    const Offer& peer = offers[r];
    if (peer.process == mine.process) {
      peers_[r] = peer.address;
      if (peer.device == mine.device) continue;
      const cudaError_t enabled = cudaDeviceEnablePeerAccess(peer.device, 0);
      open = works(enabled) || enabled == cudaErrorPeerAccessAlreadyEnabled;
      continue;
    }
    void* address = nullptr;
    open = std::string(peer.boot) == mine.boot &&
           works(cudaIpcOpenMemHandle(&address, peer.handle, cudaIpcMemLazyEnablePeerAccess));
    peers_[r] = static_cast<uint4*>(address);
    mapped_[r] = open;
  }
  const std::vector<int32_t> all = gather(int32_t{open ? 1 : 0}, host);
  return std::all_of(all.begin(), all.end(), [](int32_t ok) { return ok != 0; });
}

std::unique_ptr<PeerAllReduce> PeerAllReduce::create(Communicator& host) {
  if (host.size() > kMaxRanks) return nullptr;
  std::unique_ptr<PeerAllReduce> made(new PeerAllReduce(host));  // private constructor
  if (!made->open_peers(host)) return nullptr;
  return made;
}

bool PeerAllReduce::takes(const void* data, int64_t count) const {
  // Every rank sends all it has to all others: with many the library's ring moves less.
  return count % 4 == 0 && reinterpret_cast<uintptr_t>(data) % 8 == 0 &&
         count * 2 * (n_ - 1) <= kMaxBytes;
}

void PeerAllReduce::run(void* bf16, int64_t count, cudaStream_t stream) {
  TROUPE_CHECK(takes(bf16, count)) << count;
  if (count == 0) return;
  Job job = {};
  std::copy(peers_.begin(), peers_.end(), job.peers);
  job.data = static_cast<uint2*>(bf16);
  job.lines = static_cast<int32_t>(count / 4);
  job.rank = rank_;
  job.sequence = &state_.data()->sequence;
  job.ended = &state_.data()->ended;
  job.stopped = stopped_;
  const auto blocks =
      static_cast<unsigned>(std::min((job.lines + kThreads - 1) / kThreads, kMostBlocks));
  cuda::launch(kernel_for(n_), dim3(blocks), dim3(kThreads), 0, stream, job);
}

void PeerAllReduce::stop() noexcept { *stopped_ = 1; }

}  // namespace troupe
