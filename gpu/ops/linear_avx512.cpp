#include "gpu/ops/linear_kernel_body.h"

// g++ 12 warns about the undefined operands inside its own intrinsics (GCC bug 105593).
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

// AVX-512 with VNNI: one register is a panel's sixteen rows; vpdpbusd adds four products of an
// unsigned code and a signed activation to each lane's sum without saturation.
namespace troupe::cpu {
namespace {

struct Avx512 {
  using Floats = __m512;
  using Ints = __m512i;
  struct Doubles {
    __m512d low, high;
  };
  template <bool kNibbles>
  struct Weights {
    __m512i part[8];
  };
  static constexpr int kPlainTokens = 8;
  static constexpr int kTokenGroup = 8;

#define TROUPE_INLINE [[gnu::always_inline]] static inline
  TROUPE_INLINE Ints zero() { return _mm512_setzero_si512(); }
  TROUPE_INLINE Floats zero_floats() { return _mm512_setzero_ps(); }
  TROUPE_INLINE Doubles zero_doubles() { return {_mm512_setzero_pd(), _mm512_setzero_pd()}; }
  TROUPE_INLINE Floats load_f32(const std::byte* p) { return _mm512_loadu_ps(p); }
  TROUPE_INLINE Floats load_f16(const std::byte* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  TROUPE_INLINE Floats load_bf16(const std::byte* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  TROUPE_INLINE __mmask16 first(int64_t n) {
    return static_cast<__mmask16>((1U << static_cast<uint32_t>(n)) - 1U);
  }
  TROUPE_INLINE Floats load_n(const float* p, int64_t n) {
    return _mm512_maskz_loadu_ps(first(n), p);
  }
  TROUPE_INLINE void store_n(float* p, Floats v, int64_t n) {
    _mm512_mask_storeu_ps(p, first(n), v);
  }
  TROUPE_INLINE Floats broadcast(const float* p) { return _mm512_set1_ps(*p); }
  TROUPE_INLINE Ints broadcast(const int32_t* p) { return _mm512_set1_epi32(*p); }
  TROUPE_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  TROUPE_INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  TROUPE_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  TROUPE_INLINE Floats to_floats(Ints v) { return _mm512_cvtepi32_ps(v); }
  template <int kBits>
  TROUPE_INLINE Ints shift_right(Ints v) {
    return _mm512_srai_epi32(v, kBits);
  }
  template <int kBits>
  TROUPE_INLINE Ints shift_left(Ints v) {
    return _mm512_slli_epi32(v, kBits);
  }
  TROUPE_INLINE Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }

  TROUPE_INLINE Doubles widen(Floats v) {
    return {_mm512_cvtps_pd(_mm512_castps512_ps256(v)),
            _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1))};
  }
  TROUPE_INLINE Floats narrow(Doubles v) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(v.low)),
                              _mm512_cvtpd_ps(v.high), 1);
  }
  TROUPE_INLINE Doubles broadcast_wide(const float* p) {
    const __m512d v = _mm512_set1_pd(static_cast<double>(*p));
    return {v, v};
  }
  TROUPE_INLINE Doubles add(Doubles a, Doubles b) {
    return {_mm512_add_pd(a.low, b.low), _mm512_add_pd(a.high, b.high)};
  }
  TROUPE_INLINE Doubles fma(Doubles a, Doubles b, Doubles c) {
    return {_mm512_fmadd_pd(a.low, b.low, c.low), _mm512_fmadd_pd(a.high, b.high, c.high)};
  }

  template <bool kNibbles>
  TROUPE_INLINE Weights<kNibbles> load_codes(const std::byte* p) {
    Weights<kNibbles> w;
    if constexpr (kNibbles) {
      const __m512i low = _mm512_set1_epi8(15);
      for (int j = 0; j < 4; ++j) {
        const __m512i both = _mm512_loadu_si512(p + 64 * j);
        w.part[j] = _mm512_and_si512(both, low);
        w.part[j + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
      }
    } else {
      for (int j = 0; j < 8; ++j) w.part[j] = _mm512_loadu_si512(p + 64 * j);
    }
    return w;
  }

  TROUPE_INLINE Ints broadcast_four(const int8_t* x) {
    int32_t four = 0;
    __builtin_memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
  }
  template <int kFirst, int kLast, int kTokens, int kPart, bool kNibbles>
  TROUPE_INLINE void dot(const Weights<kNibbles>& w, const ActivationBlock* x, Ints* sum) {
    constexpr int n_chains = kTokens == 1 ? 2 : 1;  // a token alone overlaps with itself
    Ints second = zero();
#pragma GCC unroll 8
    for (int j = kFirst; j < kLast; ++j) {
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        Ints& to = n_chains == 2 && j % 2 == 1 ? second : sum[t];
        to = _mm512_dpbusd_epi32(to, w.part[j], broadcast_four(x[t].q[kPart] + 4 * j));
      }
    }
    if constexpr (n_chains == 2) *sum = _mm512_add_epi32(*sum, second);
  }

  TROUPE_INLINE int32_t max_magnitude_bits(const float* x) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    return _mm512_reduce_max_epi32(
        _mm512_max_epi32(_mm512_and_si512(_mm512_loadu_si512(x), magnitude),
                         _mm512_and_si512(_mm512_loadu_si512(x + 16), magnitude)));
  }
  TROUPE_INLINE int32_t round_16(const float* x, float inverse, bool wide, int8_t* coarse,
                                 int8_t* fine) {
    __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(inverse)));
    const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(v, _mm512_set1_epi32(128)), 8);
    if (!wide) v = _mm512_slli_epi32(high, 8);
    const __m512i low = _mm512_sub_epi32(v, _mm512_slli_epi32(high, 8));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(coarse), _mm512_cvtepi32_epi8(high));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(fine), _mm512_cvtepi32_epi8(low));
    return _mm512_reduce_add_epi32(v);
  }
#undef TROUPE_INLINE
};

constexpr LinearKernels kKernels = make_kernels<Avx512>("avx512_vnni");

}  // namespace

const LinearKernels* avx512_kernels() {
  const bool usable = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vnni");
  return usable ? &kKernels : nullptr;
}

}  // namespace troupe::cpu
