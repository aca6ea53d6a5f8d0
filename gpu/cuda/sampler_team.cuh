#pragma once

#include <cooperative_groups.h>

#include <cstdint>

// The blocks that hold a row between them.

namespace troupe::cuda {

constexpr int kSampleThreads = 512;
constexpr int kMostInTeam = 8;  // a cluster that every device can run

/// A thread-block cluster, or a block by itself. Block `rank` has every size-th stretch of
/// kSampleThreads groups of four tokens. All threads of all blocks call what syncs.
struct Team {
  int rank = 0;
  int size = 1;

  __device__ void sync() const {
#if __CUDA_ARCH__ >= 900
    if (size > 1) return cooperative_groups::this_cluster().sync();
#endif
    __syncthreads();
  }
  /// The same object in the shared memory of another block of the team.
  template <class T>
  __device__ T* of(T* mine, int other) const {
#if __CUDA_ARCH__ >= 900
    if (size > 1)
      return cooperative_groups::this_cluster().map_shared_rank(mine, static_cast<unsigned>(other));
#endif
    return mine;
  }
  [[nodiscard]] __device__ int32_t first_group() const {
    return rank * kSampleThreads + static_cast<int32_t>(threadIdx.x);
  }
  [[nodiscard]] __device__ int32_t stride() const { return size * kSampleThreads; }
  /// Whether this block has the token.
  [[nodiscard]] __device__ bool has(int32_t id) const {
    return id / (4 * kSampleThreads) % size == rank;
  }
  /// Combines a value that all threads of a block agree on, in the order of ranks.
  template <class T, class Combine>
  __device__ T combine(T value, T* slot, const Combine& f) const {
    if (size == 1) return value;
    if (threadIdx.x == 0) *slot = value;
    sync();
    T all = *of(slot, 0);
    for (int r = 1; r < size; ++r) all = f(all, *of(slot, r));
    sync();
    return all;
  }
};

}  // namespace troupe::cuda
