#include "gpu/ops/linear_kernel_body.h"

#include <immintrin.h>

// AVX2: two registers are a panel's sixteen rows. vpmaddubsw adds pairs of code x activation into
// 16 bits and saturates, so codes are multiplied as nibbles: eight pairs of at most 2 * 15 * 127
// fit. A byte code is its low nibble plus 16 times its high one.
namespace troupe::cpu {
namespace {

struct Avx2 {
  struct Floats {
    __m256 low, high;
  };
  struct Ints {
    __m256i low, high;
  };
  struct Doubles {
    __m256d part[4];
  };
  template <bool kNibbles>
  struct Weights {
    __m256i part[kNibbles ? 1 : 2][8][2];  // [low nibble, high nibble][four columns][eight rows]
  };
  static constexpr int kPlainTokens = 2;
  static constexpr int kTokenGroup = 4;

#define TROUPE_INLINE [[gnu::always_inline]] static inline
  TROUPE_INLINE Ints zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  TROUPE_INLINE Floats zero_floats() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  TROUPE_INLINE Doubles zero_doubles() {
    const __m256d z = _mm256_setzero_pd();
    return {{z, z, z, z}};
  }
  TROUPE_INLINE __m128i load_128(const std::byte* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  TROUPE_INLINE Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  TROUPE_INLINE Floats load_f32(const std::byte* p) {
    return load(reinterpret_cast<const float*>(p));
  }
  TROUPE_INLINE Floats load_f16(const std::byte* p) {
    return {_mm256_cvtph_ps(load_128(p)), _mm256_cvtph_ps(load_128(p + 16))};
  }
  TROUPE_INLINE __m256 from_bf16(__m128i bits) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  TROUPE_INLINE Floats load_bf16(const std::byte* p) {
    return {from_bf16(load_128(p)), from_bf16(load_128(p + 16))};
  }
  TROUPE_INLINE Floats load_n(const float* p, int64_t n) {
    if (n == kPanelRows) return load(p);
    alignas(32) float lanes[kPanelRows] = {};
    for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
    return load(lanes);
  }
  TROUPE_INLINE void store(float* p, Floats v) {
    _mm256_storeu_ps(p, v.low);
    _mm256_storeu_ps(p + 8, v.high);
  }
  TROUPE_INLINE void store_n(float* p, Floats v, int64_t n) {
    if (n == kPanelRows) return store(p, v);
    alignas(32) float lanes[kPanelRows];
    store(lanes, v);
    for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
  }
  TROUPE_INLINE Floats broadcast(const float* p) {
    const __m256 v = _mm256_broadcast_ss(p);
    return {v, v};
  }
  TROUPE_INLINE Ints broadcast(const int32_t* p) {
    const __m256i v = _mm256_set1_epi32(*p);
    return {v, v};
  }
  TROUPE_INLINE Floats add(Floats a, Floats b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
  }
  TROUPE_INLINE Floats mul(Floats a, Floats b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  TROUPE_INLINE Floats fma(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  TROUPE_INLINE Floats to_floats(Ints v) {
    return {_mm256_cvtepi32_ps(v.low), _mm256_cvtepi32_ps(v.high)};
  }
  template <int kBits>
  TROUPE_INLINE Ints shift_left(Ints v) {
    return {_mm256_slli_epi32(v.low, kBits), _mm256_slli_epi32(v.high, kBits)};
  }
  TROUPE_INLINE Ints add(Ints a, Ints b) {
    return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
  }
  template <int kBits>
  TROUPE_INLINE Ints shift_right(Ints v) {
    return {_mm256_srai_epi32(v.low, kBits), _mm256_srai_epi32(v.high, kBits)};
  }

  TROUPE_INLINE Doubles widen(Floats v) {
    return {{_mm256_cvtps_pd(_mm256_castps256_ps128(v.low)),
             _mm256_cvtps_pd(_mm256_extractf128_ps(v.low, 1)),
             _mm256_cvtps_pd(_mm256_castps256_ps128(v.high)),
             _mm256_cvtps_pd(_mm256_extractf128_ps(v.high, 1))}};
  }
  TROUPE_INLINE __m256 join(__m256d a, __m256d b) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(a)), _mm256_cvtpd_ps(b), 1);
  }
  TROUPE_INLINE Floats narrow(const Doubles& v) {
    return {join(v.part[0], v.part[1]), join(v.part[2], v.part[3])};
  }
  TROUPE_INLINE Doubles broadcast_wide(const float* p) {
    const __m256d v = _mm256_set1_pd(static_cast<double>(*p));
    return {{v, v, v, v}};
  }
  TROUPE_INLINE Doubles add(const Doubles& a, const Doubles& b) {
    Doubles r;
    for (int i = 0; i < 4; ++i) r.part[i] = _mm256_add_pd(a.part[i], b.part[i]);
    return r;
  }
  TROUPE_INLINE Doubles fma(const Doubles& a, const Doubles& b, const Doubles& c) {
    Doubles r;
    for (int i = 0; i < 4; ++i) r.part[i] = _mm256_fmadd_pd(a.part[i], b.part[i], c.part[i]);
    return r;
  }

  template <bool kNibbles>
  TROUPE_INLINE Weights<kNibbles> load_codes(const std::byte* p) {
    Weights<kNibbles> w;
    const __m256i low = _mm256_set1_epi8(15);
    for (int j = 0; j < (kNibbles ? 4 : 8); ++j) {
      for (int half = 0; half < 2; ++half) {
        const __m256i v =
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 64 * j + 32 * half));
        const __m256i low_nibbles = _mm256_and_si256(v, low);
        const __m256i high_nibbles = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
        if constexpr (kNibbles) {
          w.part[0][j][half] = low_nibbles;
          w.part[0][j + 4][half] = high_nibbles;
        } else {
          w.part[0][j][half] = low_nibbles;
          w.part[1][j][half] = high_nibbles;
        }
      }
    }
    return w;
  }

  // Sixteen-bit sums of nibble x activation of four columns at a time, widened once at the end.
  template <int kFirst, int kLast>
  TROUPE_INLINE Ints dot_nibbles(const __m256i (&w)[8][2], const int8_t* x) {
    Ints sum = zero();
#pragma GCC unroll 8
    for (int j = kFirst; j < kLast; ++j) {
      int32_t four = 0;
      __builtin_memcpy(&four, x + 4 * j, sizeof four);
      const __m256i v = _mm256_set1_epi32(four);
      sum.low = _mm256_add_epi16(sum.low, _mm256_maddubs_epi16(w[j][0], v));
      sum.high = _mm256_add_epi16(sum.high, _mm256_maddubs_epi16(w[j][1], v));
    }
    const __m256i ones = _mm256_set1_epi16(1);
    return {_mm256_madd_epi16(sum.low, ones), _mm256_madd_epi16(sum.high, ones)};
  }

  template <int kFirst, int kLast, int kTokens, int kPart, bool kNibbles>
  TROUPE_INLINE void dot(const Weights<kNibbles>& w, const ActivationBlock* x, Ints* sum) {
    for (int t = 0; t < kTokens; ++t) {
      const Ints low = dot_nibbles<kFirst, kLast>(w.part[0], x[t].q[kPart]);
      sum[t] = {_mm256_add_epi32(sum[t].low, low.low), _mm256_add_epi32(sum[t].high, low.high)};
      if constexpr (!kNibbles) {
        const Ints high = dot_nibbles<kFirst, kLast>(w.part[1], x[t].q[kPart]);
        sum[t] = {_mm256_add_epi32(sum[t].low, _mm256_slli_epi32(high.low, 4)),
                  _mm256_add_epi32(sum[t].high, _mm256_slli_epi32(high.high, 4))};
      }
    }
  }

  TROUPE_INLINE __m256i load_magnitudes(const float* x) {
    return _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)),
                            _mm256_set1_epi32(0x7fffffff));
  }
  TROUPE_INLINE int32_t max_magnitude_bits(const float* x) {
    const __m256i m =
        _mm256_max_epi32(_mm256_max_epi32(load_magnitudes(x), load_magnitudes(x + 8)),
                         _mm256_max_epi32(load_magnitudes(x + 16), load_magnitudes(x + 24)));
    __m128i v = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    v = _mm_max_epi32(v, _mm_shuffle_epi32(v, 0x4e));
    v = _mm_max_epi32(v, _mm_shuffle_epi32(v, 0xb1));
    return _mm_cvtsi128_si32(v);
  }
  TROUPE_INLINE __m256i round_8(const float* x, float inverse) {
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), _mm256_set1_ps(inverse)));
  }
  TROUPE_INLINE __m256i high_part(__m256i v) {
    return _mm256_srai_epi32(_mm256_add_epi32(v, _mm256_set1_epi32(128)), 8);
  }
  TROUPE_INLINE void store_bytes(int8_t* q, __m256i a, __m256i b) {
    const __m128i a16 = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    const __m128i b16 = _mm_packs_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm_packs_epi16(a16, b16));
  }
  TROUPE_INLINE int32_t round_16(const float* x, float inverse, bool wide, int8_t* coarse,
                                 int8_t* fine) {
    __m256i a = round_8(x, inverse);
    __m256i b = round_8(x + 8, inverse);
    const __m256i a_high = high_part(a);
    const __m256i b_high = high_part(b);
    if (!wide) {
      a = _mm256_slli_epi32(a_high, 8);
      b = _mm256_slli_epi32(b_high, 8);
    }
    store_bytes(coarse, a_high, b_high);
    store_bytes(fine, _mm256_sub_epi32(a, _mm256_slli_epi32(a_high, 8)),
                _mm256_sub_epi32(b, _mm256_slli_epi32(b_high, 8)));
    const __m256i both = _mm256_add_epi32(a, b);
    __m128i v = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0x4e));
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0xb1));
    return _mm_cvtsi128_si32(v);
  }
#undef TROUPE_INLINE
};

constexpr LinearKernels kKernels = make_kernels<Avx2>("avx2");

}  // namespace

const LinearKernels* avx2_kernels() {
  // F16C is older than AVX2; clang 14 cannot ask for it.
  const bool usable = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return usable ? &kKernels : nullptr;
}

}  // namespace troupe::cpu
