#pragma once

#include "gpu/cuda/sampler_noise.cuh"
#include "gpu/cuda/step_state.h"

#include <cmath>
#include <cstdint>

// Rows that truncate, penalise or want log-probabilities: one block holds the whole row. Thresholds
// are found by radix selection over the bits of the logits, three passes of histograms, without
// sorting. Masses are fixed-point, so that sums do not depend on the order of threads.

namespace troupe::cuda {

constexpr int kSampleThreads = 512;

struct RowScratch {
  static constexpr int kBins = 2048;
  uint32_t count[kBins];
  unsigned long long mass[kBins];
  uint32_t warp_count[kSampleThreads / 32];
  unsigned long long warp_mass[kSampleThreads / 32];
  double warp_double[kSampleThreads / 32];
  Candidate warp_best[kSampleThreads / 32];
  uint32_t bin;
  uint32_t count_before;
  unsigned long long mass_before;
  int32_t cutoff;
  int32_t n_top;
  TokenLogprob top[kMaxTopLogprobs];
};

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
  uint32_t n_at_key = 0xffffffffU;  // how many of them are kept
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
};

__device__ __forceinline__ unsigned long long fixed_mass(const Row& row, float x) {
  return static_cast<unsigned long long>(exp(static_cast<double>(x - row.peak) * row.inverse) *
                                         1099511627776.0);  // 2^40
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

/// Finds the bin in which the running total, from the highest bin down, reaches the wanted count
/// (by_count) or mass, and what lies above it.
__device__ inline void find_bin(RowScratch& s, bool by_count, unsigned long long wanted) {
  constexpr int kEach = RowScratch::kBins / kSampleThreads;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int top = RowScratch::kBins - 1 - static_cast<int>(threadIdx.x) * kEach;
  uint32_t count = 0;
  unsigned long long mass = 0;
  for (int i = 0; i < kEach; ++i) {
    count += s.count[top - i];
    mass += s.mass[top - i];
  }
  uint32_t count_to = count;  // inclusive
  unsigned long long mass_to = mass;
  for (int delta = 1; delta < 32; delta *= 2) {
    const uint32_t c = __shfl_up_sync(~0U, count_to, static_cast<unsigned>(delta));
    const unsigned long long m = __shfl_up_sync(~0U, mass_to, static_cast<unsigned>(delta));
    if (lane >= delta) count_to += c, mass_to += m;
  }
  if (lane == 31) s.warp_count[warp] = count_to, s.warp_mass[warp] = mass_to;
  __syncthreads();
  for (int w = 0; w < warp; ++w) count_to += s.warp_count[w], mass_to += s.warp_mass[w];
  uint32_t count_before = count_to - count;
  unsigned long long mass_before = mass_to - mass;
  const unsigned long long before = by_count ? count_before : mass_before;
  const unsigned long long to = by_count ? count_to : mass_to;
  if (before < wanted && to >= wanted) {
    for (int i = 0; i < kEach; ++i) {
      const uint32_t c = s.count[top - i];
      const unsigned long long m = s.mass[top - i];
      if ((by_count ? count_before + c : mass_before + m) >= wanted) {
        s.bin = static_cast<uint32_t>(top - i);
        s.count_before = count_before;
        s.mass_before = mass_before;
        break;
      }
      count_before += c;
      mass_before += m;
    }
  }
  __syncthreads();
}

/// The smallest set of most probable tokens within `set` that has `wanted` tokens or that mass;
/// lower ids first among equals. Requires that the set has as much.
__device__ inline Threshold select(RowScratch& s, const Row& row, const Threshold& set,
                                   bool by_count, unsigned long long wanted) {
  uint32_t prefix = 0;
  int shift = 32;
  const int widths[3] = {11, 11, 10};
  unsigned long long left = wanted;
  for (int level = 0; level < 3; ++level) {
    shift -= widths[level];
    for (int i = static_cast<int>(threadIdx.x); i < RowScratch::kBins; i += kSampleThreads)
      s.count[i] = 0, s.mass[i] = 0;
    __syncthreads();
    const uint32_t mask = (1U << widths[level]) - 1;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < row.n; i += kSampleThreads) {
      const float x = row.x[i];
      if (!set.keeps(x, i)) continue;
      const uint32_t key = sort_key(x);
      if (level > 0 && (key >> (shift + widths[level])) != prefix) continue;
      const uint32_t bin = (key >> shift) & mask;
      atomicAdd(&s.count[bin], 1U);
      if (!by_count) atomicAdd(&s.mass[bin], fixed_mass(row, x));
    }
    __syncthreads();
    find_bin(s, by_count, left);
    left -= by_count ? s.count_before : s.mass_before;
    prefix = prefix << widths[level] | s.bin;
    __syncthreads();
  }
  // `prefix` is a whole key now; `left` is what its own tokens must bring.
  const uint32_t here = s.count[s.bin];
  Threshold out;
  out.key = prefix;
  unsigned long long need = left;
  if (!by_count) {
    const unsigned long long each = fixed_mass(row, from_key(prefix));
    need = each == 0 ? here : (left + each - 1) / each;
  }
  out.n_at_key = need < here ? static_cast<uint32_t>(need) : here;
  out.cutoff = prefix == set.key ? set.cutoff : 0x7fffffff;
  __syncthreads();
  if (out.n_at_key == here) return out;
  // Some of several equal logits: count them off in the order of their ids.
  if (threadIdx.x == 0) s.cutoff = 0x7fffffff;
  uint32_t seen = 0;
  for (int32_t begin = 0; begin < row.n && seen < out.n_at_key; begin += kSampleThreads) {
    const int32_t i = begin + static_cast<int32_t>(threadIdx.x);
    const bool hit = i < row.n && sort_key(row.x[i]) == prefix && set.keeps(row.x[i], i);
    const uint32_t votes = __ballot_sync(~0U, hit);
    if (threadIdx.x % 32 == 0)
      s.warp_count[threadIdx.x / 32] = static_cast<uint32_t>(__popc(votes));
    __syncthreads();
    uint32_t rank = seen + static_cast<uint32_t>(__popc(votes & ((1U << threadIdx.x % 32) - 1)));
    uint32_t total = seen;
    for (unsigned w = 0; w < kSampleThreads / 32; ++w) {
      if (w < threadIdx.x / 32) rank += s.warp_count[w];
      total += s.warp_count[w];
    }
    if (hit && rank + 1 == out.n_at_key) s.cutoff = i;
    seen = total;
    __syncthreads();
  }
  out.cutoff = s.cutoff;
  __syncthreads();
  return out;
}

}  // namespace troupe::cuda
