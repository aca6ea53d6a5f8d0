#pragma once

#include "gpu/cuda/sampler_noise.cuh"
#include "gpu/cuda/sampler_team.cuh"
#include "gpu/cuda/step_state.h"

#include <cmath>
#include <cstdint>

// Rows that truncate, penalise or want log-probabilities: a team of blocks has the row. Thresholds
// are found by histograms and by listing the tokens of the one bin that matters, without sorting.
// Masses are fixed-point, so that sums do not depend on the order of threads.

namespace troupe::cuda {

struct Largest {
  float logit;
  int32_t failed;  // a logit is infinite or no number
};

/// One block's. Lists and results are those of the team's first block.
struct RowScratch {
  static constexpr int kBins = 2048;
  static constexpr int kListed = 1024;
  uint32_t low[kBins];   // what a bin weighs, in two words: shared memory adds words at once and
  uint32_t high[kBins];  // wider numbers in a loop
  uint64_t listed[kListed];  // sort_key and token id, more probable is larger
  unsigned long long listed_mass[kListed];
  uint32_t n_listed;  // found, of which the first kListed are there
  uint32_t warp_count[kSampleThreads / 32];
  unsigned long long warp_mass[kSampleThreads / 32];
  double warp_double[kSampleThreads / 32];
  Candidate warp_best[kSampleThreads / 32];
  uint32_t bin;
  unsigned long long before;
  uint32_t cut_key;
  int32_t cutoff;
  int32_t n_top;
  TokenLogprob top[kMaxTopLogprobs];
  // what a block tells its team
  Largest team_largest;
  double team_double;
  Candidate team_best;
};

__device__ __forceinline__ void load_group(float (&x)[4], const float* row, int32_t first,
                                           int32_t n, bool aligned) {
  if (aligned && first + 4 <= n) {
    const float4 v = *reinterpret_cast<const float4*>(row + first);
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) x[j] = first + j < n ? row[first + j] : 0.0F;
}

/// f(logit, token id) for this thread's part of a row, kDeep loads in flight: more than a few only
/// help a short f, as its unrolled copies must fit the instruction caches.
template <int kDeep, class F>
__device__ __forceinline__ void for_each_logit(const float* row, int32_t n, const Team& team,
                                               F&& f) {
  const bool aligned = reinterpret_cast<uintptr_t>(row) % 16 == 0;
#pragma unroll 1
  for (int32_t g = team.first_group(); g * 4 < n; g += kDeep * team.stride()) {
    float x[kDeep][4];
#pragma unroll
    for (int u = 0; u < kDeep; ++u) load_group(x[u], row, (g + u * team.stride()) * 4, n, aligned);
#pragma unroll
    for (int u = 0; u < kDeep; ++u) {
      const int32_t id = (g + u * team.stride()) * 4;
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (id + j < n) f(x[u][j], id + j);
    }
  }
}

constexpr int kFew = 2;
constexpr int kMany = 4;

/// Descending logits are ascending keys' complement: a > b as floats iff key(a) > key(b).
__device__ __forceinline__ uint32_t sort_key(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0F);  // -0 is 0
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
__device__ __forceinline__ float from_key(uint32_t key) {
  return __uint_as_float((key & 0x80000000U) != 0 ? key & 0x7fffffffU : ~key);
}

/// The tokens that are still candidates: all with a larger key, and those with this key up to
/// token id `cutoff`.
struct Threshold {
  uint32_t key = 0;
  int32_t cutoff = 0x7fffffff;
  __device__ bool keeps(float x, int32_t id) const {
    const uint32_t k = sort_key(x);
    return x != -INFINITY && (k > key || (k == key && id <= cutoff));
  }
};

struct Row {
  const float* x;
  int32_t n;
  float peak;
  double inverse;  // of the temperature
  Team team;
};

/// Of a token relative to the most probable one, in units of 2^-40.
__device__ __forceinline__ unsigned long long fixed_mass(const Row& row, float x) {
  return static_cast<unsigned long long>(expf((x - row.peak) * static_cast<float>(row.inverse)) *
                                         1099511627776.0F);
}

/// Bins of equal width in the logarithm of the probability, the best in the highest: the rows of
/// real models spread over them, which keeps atomics apart. The lowest takes the rest: a threshold
/// 16 below the best token is rare, and found by the bits of the logits.
__device__ __forceinline__ uint32_t linear_bin(const Row& row, float x) {
  const float distance = (row.peak - x) * static_cast<float>(row.inverse) * 128.0F;
  return RowScratch::kBins - 1 -
         static_cast<uint32_t>(fminf(distance, static_cast<float>(RowScratch::kBins - 1)));
}

template <class T>
__device__ T sum_block(T value, T* scratch) {
  for (int delta = 16; delta > 0; delta /= 2) value += __shfl_xor_sync(~0U, value, delta);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  T total = 0;
  for (int w = 0; w < kSampleThreads / 32; ++w) total += scratch[w];
  return total;
}

/// What a token weighs where a set is measured: 1, or its mass.
__device__ __forceinline__ unsigned long long weight(const Row& row, float x, bool by_count) {
  return by_count ? 1 : fixed_mass(row, x);
}

/// The compiler cannot see everywhere that bins are shared memory, and asks at run time.
__device__ __forceinline__ uint32_t add_shared(uint32_t* to, uint32_t value) {
  uint32_t before = 0;
  asm volatile("atom.shared.add.u32 %0, [%1], %2;"
               : "=r"(before)
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))), "r"(value)
               : "memory");
  return before;
}

__device__ __forceinline__ void add_to_bin(RowScratch& s, uint32_t bin, unsigned long long w) {
  const auto low = static_cast<uint32_t>(w);
  auto high = static_cast<uint32_t>(w >> 32);
  if (add_shared(&s.low[bin], low) > ~low) ++high;  // the carry
  if (high != 0) add_shared(&s.high[bin], high);
}
__device__ __forceinline__ unsigned long long weight_of_bin(const RowScratch& s, int bin) {
  return static_cast<unsigned long long>(s.high[bin]) << 32 | s.low[bin];
}

__device__ inline unsigned long long weight_of_bins(RowScratch& s) {
  unsigned long long sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < RowScratch::kBins; i += kSampleThreads)
    sum += weight_of_bin(s, i);
  sum = sum_block(sum, s.warp_mass);
  __syncthreads();  // find_bin() writes there
  return sum;
}

/// Finds the bin in which the running weight, from the highest bin down, reaches `wanted`, and what
/// lies above it.
__device__ inline void find_bin(RowScratch& s, unsigned long long wanted) {
  constexpr int kEach = RowScratch::kBins / kSampleThreads;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int top = RowScratch::kBins - 1 - static_cast<int>(threadIdx.x) * kEach;
  unsigned long long mine = 0;
  for (int i = 0; i < kEach; ++i) mine += weight_of_bin(s, top - i);
  unsigned long long to = mine;  // inclusive
  for (int delta = 1; delta < 32; delta *= 2) {
    const unsigned long long other = __shfl_up_sync(~0U, to, static_cast<unsigned>(delta));
    if (lane >= delta) to += other;
  }
  if (lane == 31) s.warp_mass[warp] = to;
  __syncthreads();
  for (int w = 0; w < warp; ++w) to += s.warp_mass[w];
  unsigned long long before = to - mine;
  if (before < wanted && to >= wanted) {
    for (int i = 0; i < kEach; ++i) {
      const unsigned long long w = weight_of_bin(s, top - i);
      if (before + w >= wanted) {
        s.bin = static_cast<uint32_t>(top - i);
        s.before = before;
        break;
      }
      before += w;
    }
  }
  __syncthreads();
}

__device__ inline void clear_bins(RowScratch& s) {
  for (int i = static_cast<int>(threadIdx.x); i < RowScratch::kBins; i += kSampleThreads)
    s.low[i] = s.high[i] = 0;
  if (threadIdx.x == 0) s.n_listed = 0;
  __syncthreads();
}

/// After all blocks have filled their bins: everybody gets the sums. A block adds up its part of
/// the bins and is the only one that touches them in any block.
__device__ inline void merge_bins(RowScratch& s, const Team& team) {
  team.sync();
  if (team.size == 1) return;
  const int part = RowScratch::kBins / team.size;
  for (int i = static_cast<int>(threadIdx.x); i < part; i += kSampleThreads) {
    const int bin = team.rank * part + i;
    unsigned long long sum = 0;
#pragma unroll 1
    for (int r = 0; r < team.size; ++r) sum += weight_of_bin(*team.of(&s, r), bin);
#pragma unroll 1
    for (int r = 0; r < team.size; ++r) {
      RowScratch& other = *team.of(&s, r);
      other.low[bin] = static_cast<uint32_t>(sum);
      other.high[bin] = static_cast<uint32_t>(sum >> 32);
    }
  }
  team.sync();
}

/// Lists the tokens of one linear bin in the team's first block; false when they are too many.
/// clear_bins() comes before.
__device__ inline bool list_bin(RowScratch& s, const Row& row, const Threshold& set, bool by_count,
                                uint32_t bin) {
  RowScratch& first = *row.team.of(&s, 0);
  for_each_logit<kFew>(row.x, row.n, row.team, [&](float x, int32_t id) {
    if (linear_bin(row, x) != bin || !set.keeps(x, id)) return;
    const uint32_t at = atomicAdd(&first.n_listed, 1U);
    if (at >= RowScratch::kListed) return;
    first.listed[at] =
        static_cast<uint64_t>(sort_key(x)) << 32 | (0xffffffffU - static_cast<uint32_t>(id));
    first.listed_mass[at] = weight(row, x, by_count);
  });
  row.team.sync();
  const bool all = first.n_listed <= RowScratch::kListed;
  row.team.sync();
  return all;
}

/// select() among the listed tokens: each finds out what goes before it.
__device__ inline Threshold select_listed(RowScratch& s, const Team& team,
                                          unsigned long long wanted) {
  const uint32_t n = team.rank == 0 ? s.n_listed : 0;
  for (uint32_t i = threadIdx.x; i < n; i += kSampleThreads) {
    const uint64_t mine = s.listed[i];
    unsigned long long before = 0;
    bool is_last = true;
    for (uint32_t k = 0; k < n; ++k) {
      if (s.listed[k] > mine) before += s.listed_mass[k];
      is_last &= s.listed[k] >= mine;
    }
    const unsigned long long to = before + s.listed_mass[i];
    if (before < wanted && (to >= wanted || is_last)) {
      s.cut_key = static_cast<uint32_t>(mine >> 32);
      s.cutoff = static_cast<int32_t>(0xffffffffU - static_cast<uint32_t>(mine));
    }
  }
  team.sync();
  const RowScratch& first = *team.of(&s, 0);
  Threshold out;
  out.key = first.cut_key;
  out.cutoff = first.cutoff;
  team.sync();
  return out;
}

/// How much a set is to have: tokens, or a share of the mass of all.
struct Wanted {
  int32_t tokens = 0;
  double share = 0.0;
};

/// The smallest set of most probable tokens within `set` that has what is wanted; lower ids first
/// among equals. `set` itself when it has fewer tokens.
static __device__ __noinline__ Threshold select(RowScratch& s, Row row, Threshold set,
                                                Wanted much) {
  const bool by_count = much.tokens > 0;
  const Team& team = row.team;
  clear_bins(s);
  const bool everything = set.key == 0;
  for_each_logit<kFew>(row.x, row.n, team, [&](float x, int32_t id) {
    if (everything ? x != -INFINITY : set.keeps(x, id))
      add_to_bin(s, linear_bin(row, x), weight(row, x, by_count));
  });
  merge_bins(s, team);
  const unsigned long long total = weight_of_bins(s);
  auto left = static_cast<unsigned long long>(much.tokens);
  if (by_count && total <= left) return set;
  if (!by_count) {
    left = static_cast<unsigned long long>(ceil(much.share * static_cast<double>(total)));
    left = min(max(left, 1ULL), total);
  }
  find_bin(s, left);
  const uint32_t linear = s.bin;
  left -= s.before;
  __syncthreads();
  if (list_bin(s, row, set, by_count, linear)) return select_listed(s, team, left);
  // Many tokens, most of them equal as a rule: by the bits of their logits.
  uint32_t prefix = 0;
  int shift = 32;
  const int widths[3] = {11, 11, 10};
#pragma unroll 1
  for (int level = 0; level < 3; ++level) {
    shift -= widths[level];
    clear_bins(s);
    const uint32_t mask = (1U << widths[level]) - 1;
    for_each_logit<kFew>(row.x, row.n, team, [&](float x, int32_t id) {
      if (!set.keeps(x, id) || linear_bin(row, x) != linear) return;
      const uint32_t key = sort_key(x);
      if (level > 0 && (key >> (shift + widths[level])) != prefix) return;
      add_to_bin(s, (key >> shift) & mask, weight(row, x, by_count));
    });
    merge_bins(s, team);
    find_bin(s, left);
    left -= s.before;
    prefix = prefix << widths[level] | s.bin;
    __syncthreads();
  }
  // `prefix` is a whole key now; `left` is what its own tokens must bring. They weigh the same.
  const unsigned long long each = weight(row, from_key(prefix), by_count);
  Threshold out;
  out.key = prefix;
  out.cutoff = prefix == set.key ? set.cutoff : 0x7fffffff;
  if (each == 0) return out;
  const auto here =
      static_cast<uint32_t>(weight_of_bin(s, static_cast<int>(prefix & 0x3ffU)) / each);
  const unsigned long long need = (left + each - 1) / each;
  const uint32_t n_at_key = need < here ? static_cast<uint32_t>(need) : here;
  __syncthreads();
  if (n_at_key == here) return out;
  // Some of several equal logits: one block counts them off in the order of their ids.
  if (threadIdx.x == 0) s.cutoff = 0x7fffffff;
  uint32_t seen = 0;
#pragma unroll 1
  for (int32_t begin = 0; team.rank == 0 && begin < row.n && seen < n_at_key;
       begin += kSampleThreads) {
    const int32_t i = begin + static_cast<int32_t>(threadIdx.x);
    const bool hit = i < row.n && sort_key(row.x[i]) == prefix && set.keeps(row.x[i], i);
    const uint32_t votes = __ballot_sync(~0U, hit);
    if (threadIdx.x % 32 == 0)
      s.warp_count[threadIdx.x / 32] = static_cast<uint32_t>(__popc(votes));
    __syncthreads();
    uint32_t rank = seen + static_cast<uint32_t>(__popc(votes & ((1U << threadIdx.x % 32) - 1)));
    uint32_t total = seen;
#pragma unroll 1
    for (unsigned w = 0; w < kSampleThreads / 32; ++w) {
      if (w < threadIdx.x / 32) rank += s.warp_count[w];
      total += s.warp_count[w];
    }
    if (hit && rank + 1 == n_at_key) s.cutoff = i;
    seen = total;
    __syncthreads();
  }
  team.sync();
  out.cutoff = team.of(&s, 0)->cutoff;
  team.sync();
  return out;
}

}  // namespace troupe::cuda
