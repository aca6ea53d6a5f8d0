#pragma once

// Kernels that scan a row of logits, for the sampler. See vec.h for who includes this.

#include "gpu/ops/kernels.h"
#include "gpu/ops/vec.h"

#include <cstdint>

namespace troupe::cpu {
namespace {

bool all_finite(const float* x, int64_t n) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; ++i)
    bad |= static_cast<uint32_t>((__builtin_bit_cast(uint32_t, x[i]) & 0x7f800000u) == 0x7f800000u);
  return bad == 0;
}

float largest(const float* x, int64_t n) {
  constexpr int kW = Vec::kWidth;
  float r = -__builtin_inff();
  int64_t i = 0;
  F best = Vec::set1(r);
  for (; i + kW <= n; i += kW) best = Vec::max(Vec::load(x + i), best);
  r = Vec::largest(best);
  for (; i < n; ++i) r = x[i] > r ? x[i] : r;
  return r;
}

double sum_exp(const float* x, int64_t n, float shift, float scale) {
  constexpr int kW = Vec::kWidth;
  constexpr int64_t kBlock = 1024;  // summed as floats, then as doubles
  double total = 0.0;
  for (int64_t block = 0; block < n; block += kBlock) {
    const int64_t end = block + kBlock < n ? block + kBlock : n;
    F sum = Vec::zero();
    for (int64_t i = block; i < end; i += kW) {
      float part[kW] = {};
      const bool whole = i + kW <= end;
      for (int64_t j = i; !whole && j < end; ++j) part[j - i] = x[j];
      const F value = Vec::load(whole ? x + i : part);
      const F e = vec_exp(Vec::mul(Vec::sub(value, Vec::set1(shift)), Vec::set1(scale)));
      sum =
          Vec::add(sum, whole ? e : Vec::keep_lanes(e, 0, static_cast<int>(end - i), Vec::zero()));
    }
    total += static_cast<double>(Vec::sum(sum));
  }
  return total;
}

constexpr int kGroupBlock = 32;  // groups computed side by side

/// One round of Philox4x32 on kGroupBlock counters; the loop is vectorised.
void philox_round(uint32_t (*__restrict c)[kGroupBlock], uint32_t key0, uint32_t key1) {
  for (int i = 0; i < kGroupBlock; ++i) {
    const uint64_t a = uint64_t{0xd2511f53u} * c[0][i];
    const uint64_t b = uint64_t{0xcd9e8d57u} * c[2][i];
    const uint32_t c1 = c[1][i];
    const uint32_t c3 = c[3][i];
    c[0][i] = static_cast<uint32_t>(b >> 32) ^ c1 ^ key0;
    c[1][i] = static_cast<uint32_t>(b);
    c[2][i] = static_cast<uint32_t>(a >> 32) ^ c3 ^ key1;
    c[3][i] = static_cast<uint32_t>(a);
  }
}

void random_words(uint32_t* out, uint64_t seed, int32_t position, uint32_t first_group,
                  int32_t n_groups) {
  for (int32_t block = 0; block < n_groups; block += kGroupBlock) {
    alignas(64) uint32_t c[4][kGroupBlock];
    for (int i = 0; i < kGroupBlock; ++i) {
      c[0][i] = first_group + static_cast<uint32_t>(block + i);
      c[1][i] = static_cast<uint32_t>(position);
      c[2][i] = 0;
      c[3][i] = 0;
    }
    auto key0 = static_cast<uint32_t>(seed);
    auto key1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      philox_round(c, key0, key1);
      key0 += 0x9e3779b9u;
      key1 += 0xbb67ae85u;
    }
    const int32_t n = n_groups - block < kGroupBlock ? n_groups - block : kGroupBlock;
    for (int32_t i = 0; i < n; ++i)
      for (int32_t w = 0; w < 4; ++w) out[(block + i) * 4 + w] = c[w][i];
  }
}

int32_t lifted(int32_t* indices, const float* x, const uint32_t* words, int32_t n, float shift,
               float scale, float offset) {
  constexpr int kW = Vec::kWidth;
  // 1 - u = (2^32 - word - 0.5) / 2^32; slack far above the rounding of both sides.
  const F unit = Vec::set1(1.0F / 4294967296.0F);
  const F one = Vec::set1(1.0F);
  int32_t found = 0;
  for (int32_t i = 0; i < n; i += kW) {
    float values[kW] = {};
    uint32_t random[kW] = {};
    const bool whole = i + kW <= n;
    for (int32_t j = i; !whole && j < n; ++j) {
      values[j - i] = x[j];
      random[j - i] = words[j];
    }
    const F value = Vec::load(whole ? x + i : values);
    const F u = Vec::mul(Vec::from_u32(whole ? words + i : random), unit);
    const F e =
        vec_exp(Vec::fma(Vec::sub(value, Vec::set1(shift)), Vec::set1(scale), Vec::set1(offset)));
    const F bound = Vec::fma(e, Vec::set1(1.001F), Vec::set1(1e-6F));
    const F hit = Vec::if_less(Vec::sub(one, u), bound, one, Vec::zero());
    if (Vec::largest(hit) == 0.0F) continue;
    float hits[kW];
    Vec::store(hits, hit);
    for (int32_t j = i; j < i + kW && j < n; ++j)
      if (hits[j - i] != 0.0F) indices[found++] = j;
  }
  return found;
}

}  // namespace
}  // namespace troupe::cpu
