#pragma once

#include <cstdint>

// The noise of gpu/sampler_row.cpp on the device, and the order of candidates.

namespace troupe::cuda {

struct Words {
  uint32_t w[4];
};

/// The random words of tokens [4 * group, 4 * group + 4): Philox4x32-10 (Salmon et al. 2011) of the
/// counter (group, position, 0, 0) under the key `seed`.
__device__ __forceinline__ Words random_words(uint64_t seed, int32_t position, uint32_t group) {
  uint32_t c0 = group;
  uint32_t c1 = static_cast<uint32_t>(position);
  uint32_t c2 = 0;
  uint32_t c3 = 0;
  auto key0 = static_cast<uint32_t>(seed);
  auto key1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t a_high = __umulhi(0xd2511f53U, c0);
    const uint32_t a_low = 0xd2511f53U * c0;
    const uint32_t b_high = __umulhi(0xcd9e8d57U, c2);
    const uint32_t b_low = 0xcd9e8d57U * c2;
    c0 = b_high ^ c1 ^ key0;
    c1 = b_low;
    c2 = a_high ^ c3 ^ key1;
    c3 = a_low;
    key0 += 0x9e3779b9U;
    key1 += 0xbb67ae85U;
  }
  return {{c0, c1, c2, c3}};
}

/// logit / temperature plus Gumbel noise, exactly as the CPU computes it. Not inlined: seldom
/// called, and two logarithms in each unrolled copy of a loop overflow the instruction caches.
static __device__ __noinline__ double exact_score(float logit, float temperature, uint32_t word) {
  const double u = (static_cast<double>(word) + 0.5) / 4294967296.0;
  return static_cast<double>(logit) / static_cast<double>(temperature) - log(-log(u));
}

/// Upper bound of exact_score(), cheap: -log(-log(u)) <= -log(1 - u).
__device__ __forceinline__ float score_bound(float logit, float inverse_temperature,
                                             uint32_t word) {
  const float rest = (static_cast<float>(~word) + 0.5F) * 0x1p-32F;  // 1 - u
  const float scaled = logit * inverse_temperature;
  return scaled - __logf(rest) + 1e-3F + 1e-6F * fabsf(scaled);
}
/// exact_score() in float, for choosing whose exact score is worth computing.
__device__ __forceinline__ float approximate_score(float logit, float inverse_temperature,
                                                   uint32_t word) {
  const float rest = (static_cast<float>(~word) + 0.5F) * 0x1p-32F;  // 1 - u
  const float series = rest * (1.0F + rest * (0.5F + rest * (1.0F / 3 + rest * 0.25F)));
  const float u = (static_cast<float>(word) + 0.5F) * 0x1p-32F;
  const float minus_log = rest < 0.06F ? series : -__logf(u);
  return logit * inverse_temperature - __logf(minus_log);
}
/// Two approximate scores that are further apart are in the right order: far above the rounding of
/// float logarithms and of the inverse temperature.
__device__ __forceinline__ float score_margin(float a, float b) {
  return 2.2e-3F + 2e-6F * (fabsf(a) + fabsf(b));
}

/// Higher scores win, then lower ids; id -1 is nobody.
struct Candidate {
  double score;
  int32_t id;
};
__device__ __forceinline__ bool beats(const Candidate& a, const Candidate& b) {
  if (a.id < 0 || b.id < 0) return a.id >= 0;
  return a.score > b.score || (a.score == b.score && a.id < b.id);
}
__device__ __forceinline__ Candidate best_of_warp(Candidate c) {
#pragma unroll
  for (int delta = 16; delta > 0; delta /= 2) {
    const Candidate other = {__shfl_xor_sync(~0U, c.score, delta),
                             __shfl_xor_sync(~0U, c.id, delta)};
    if (beats(other, c)) c = other;
  }
  return c;
}

}  // namespace troupe::cuda
