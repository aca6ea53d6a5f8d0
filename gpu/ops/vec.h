#pragma once

// One vector of floats for the instruction set that the including file is compiled for. Included
// only by gpu/ops/kernels_*.cpp, each compiled with its own flags, so everything here has internal
// linkage and nothing from the standard library is called: an inline function shared between these
// files could be linked in with instructions that the processor lacks.

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#else
#include "gpu/base/half.h"
#endif

#include <cstdint>

namespace troupe::cpu {
namespace {

#if defined(__AVX512F__)

struct Vec {
  static constexpr int kWidth = 16;
  static constexpr int kUnroll = 4;  // vectors of one row kept in registers beside four queries
  using F = __m512;

  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static F load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F zero() { return _mm512_setzero_ps(); }
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  /// b where either is NaN.
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static float sum(F x) { return _mm512_reduce_add_ps(x); }
  static float largest(F x) { return _mm512_reduce_max_ps(x); }
  /// a < b ? yes : no
  static F if_less(F a, F b, F yes, F no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
  }
  static F if_nan(F x, F yes, F no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), no, yes);
  }
  /// Bits of x with the low bits of t added to the exponent field.
  static F add_exponent(F x, F t) {
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(x), _mm512_slli_epi32(_mm512_castps_si512(t), 23)));
  }
  /// Lanes begin <= i < end of x, `other` elsewhere.
  static F keep_lanes(F x, int begin, int end, F other) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __mmask16 in = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(begin)) &
                         _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(end));
    return _mm512_mask_blend_ps(in, other, x);
  }
  static F from_u32(const uint32_t* p) { return _mm512_cvtepu32_ps(_mm512_loadu_si512(p)); }
  /// Lane r of the result is the sum over the lanes of x[r].
  static F sum_each(const F* x) {
    F a[8];
    for (int i = 0; i < 8; ++i)  // 128-bit parts: (row i, row i, row i + 8, row i + 8)
      a[i] = add(_mm512_shuffle_f32x4(x[i], x[i + 8], 0x44),
                 _mm512_shuffle_f32x4(x[i], x[i + 8], 0xee));
    F b[4];
    for (int i = 0; i < 4; ++i)  // (row i, row i + 8, row i + 4, row i + 12)
      b[i] = add(_mm512_shuffle_f32x4(a[i], a[i + 4], 0x88),
                 _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd));
    const F c = add(_mm512_unpacklo_ps(b[0], b[1]), _mm512_unpackhi_ps(b[0], b[1]));
    const F d = add(_mm512_unpacklo_ps(b[2], b[3]), _mm512_unpackhi_ps(b[2], b[3]));
    const F e = add(_mm512_shuffle_ps(c, d, 0x44), _mm512_shuffle_ps(c, d, 0xee));
    return _mm512_shuffle_f32x4(e, e, 0xd8);
  }
};

#elif defined(__AVX2__)

struct Vec {
  static constexpr int kWidth = 8;
  static constexpr int kUnroll = 2;
  using F = __m256;

  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static F load_f16(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static F zero() { return _mm256_setzero_ps(); }
  static F set1(float x) { return _mm256_set1_ps(x); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static float sum(F x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  static float largest(F x) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
  }
  static F if_less(F a, F b, F yes, F no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
  }
  static F if_nan(F x, F yes, F no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  }
  static F add_exponent(F x, F t) {
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(_mm256_castps_si256(t), 23)));
  }
  static F keep_lanes(F x, int begin, int end, F other) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i in = _mm256_and_si256(_mm256_cmpgt_epi32(lane, _mm256_set1_epi32(begin - 1)),
                                        _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane));
    return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(in));
  }
  static F from_u32(const uint32_t* p) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const F high = _mm256_cvtepi32_ps(_mm256_srli_epi32(x, 16));
    const F low = _mm256_cvtepi32_ps(_mm256_and_si256(x, _mm256_set1_epi32(0xffff)));
    return fma(high, set1(65536.0F), low);
  }
  static F sum_each(const F* x) {
    const F a = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    const F b = _mm256_hadd_ps(_mm256_hadd_ps(x[4], x[5]), _mm256_hadd_ps(x[6], x[7]));
    return add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  }
};

#else

struct Vec {
  static constexpr int kWidth = 8;
  static constexpr int kUnroll = 2;
  struct F {
    float v[kWidth];
  };

  template <class Function>
  static F make(Function f) {
    F r;
    for (int i = 0; i < kWidth; ++i) r.v[i] = f(i);
    return r;
  }
  static F load(const float* p) {
    return make([=](int i) { return p[i]; });
  }
  static void store(float* p, const F& x) {
    for (int i = 0; i < kWidth; ++i) p[i] = x.v[i];
  }
  static F load_f16(const uint16_t* p) {
    return make([=](int i) { return float_from_f16(p[i]); });
  }
  static F zero() { return set1(0.0F); }
  static F set1(float x) {
    return make([=](int) { return x; });
  }
  static F add(const F& a, const F& b) {
    return make([&](int i) { return a.v[i] + b.v[i]; });
  }
  static F sub(const F& a, const F& b) {
    return make([&](int i) { return a.v[i] - b.v[i]; });
  }
  static F mul(const F& a, const F& b) {
    return make([&](int i) { return a.v[i] * b.v[i]; });
  }
  static F div(const F& a, const F& b) {
    return make([&](int i) { return a.v[i] / b.v[i]; });
  }
  static F fma(const F& a, const F& b, const F& c) {
    return make([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
  }
  static F max(const F& a, const F& b) {
    return make([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static float sum(const F& x) {
    return ((x.v[0] + x.v[4]) + (x.v[2] + x.v[6])) + ((x.v[1] + x.v[5]) + (x.v[3] + x.v[7]));
  }
  static float largest(const F& x) {
    float r = x.v[0];
    for (int i = 1; i < kWidth; ++i) r = x.v[i] > r ? x.v[i] : r;
    return r;
  }
  static F if_less(const F& a, const F& b, const F& yes, const F& no) {
    return make([&](int i) { return a.v[i] < b.v[i] ? yes.v[i] : no.v[i]; });
  }
  static F if_nan(const F& x, const F& yes, const F& no) {
    return make([&](int i) { return x.v[i] != x.v[i] ? yes.v[i] : no.v[i]; });
  }
  static F add_exponent(const F& x, const F& t) {
    return make([&](int i) {
      return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, x.v[i]) +
                                           (__builtin_bit_cast(uint32_t, t.v[i]) << 23));
    });
  }
  static F keep_lanes(const F& x, int begin, int end, const F& other) {
    return make([&](int i) { return i >= begin && i < end ? x.v[i] : other.v[i]; });
  }
  static F from_u32(const uint32_t* p) {
    return make([=](int i) { return static_cast<float>(p[i]); });
  }
  static F sum_each(const F* x) {
    return make([=](int i) { return sum(x[i]); });
  }
};

#endif

using F = Vec::F;

/// exp(x), relative error below 3e-7 for -86.5 <= x <= 88; 0 below, infinity above, NaN stays.
/// exp(0) is exactly 1. Cody-Waite reduction, Taylor polynomial on |r| <= ln(2) / 2.
inline F vec_exp(F x) {
  const F low = Vec::set1(-86.5F);
  const F high = Vec::set1(88.0F);
  const F magic = Vec::set1(12582912.0F);  // 1.5 * 2^23: adding it rounds to an integer
  const F t =
      Vec::fma(Vec::max(low, Vec::if_less(high, x, high, x)), Vec::set1(1.44269504F), magic);
  const F n = Vec::sub(t, magic);
  F r = Vec::fma(n, Vec::set1(-0.693359375F), x);
  r = Vec::fma(n, Vec::set1(2.12194440e-4F), r);
  F p = Vec::set1(1.0F / 5040.0F);
  p = Vec::fma(p, r, Vec::set1(1.0F / 720.0F));
  p = Vec::fma(p, r, Vec::set1(1.0F / 120.0F));
  p = Vec::fma(p, r, Vec::set1(1.0F / 24.0F));
  p = Vec::fma(p, r, Vec::set1(1.0F / 6.0F));
  p = Vec::fma(p, r, Vec::set1(0.5F));
  p = Vec::fma(p, r, Vec::set1(1.0F));
  p = Vec::fma(p, r, Vec::set1(1.0F));
  p = Vec::add_exponent(p, t);
  p = Vec::if_less(x, low, Vec::zero(), p);
  p = Vec::if_less(high, x, Vec::set1(__builtin_inff()), p);
  return Vec::if_nan(x, x, p);
}

/// n halves at p to floats; n is a multiple of 8.
inline void floats_from_f16(float* out, const uint16_t* p, int n) {
#if defined(__AVX512F__) || defined(__AVX2__)
  int i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= n; i += 16)
    _mm512_storeu_ps(out + i,
                     _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i))));
#endif
  for (; i < n; i += 8)
    _mm256_storeu_ps(out + i,
                     _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i))));
#else
  for (int i = 0; i < n; ++i) out[i] = float_from_f16(p[i]);
#endif
}

/// n floats to halves, round to nearest even; n is a multiple of 8.
inline void f16_from_floats(uint16_t* out, const float* p, int n) {
#if defined(__AVX512F__) || defined(__AVX2__)
  for (int i = 0; i < n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(p + i), _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < n; ++i) out[i] = f16_from_float(p[i]);
#endif
}

}  // namespace
}  // namespace troupe::cpu
