#pragma once

#include "gpu/ops/linear_kernels.h"

/// The multiply, written once over an instruction set `Isa` (linear_{portable,avx2,avx512}.cpp)
/// that provides sixteen-lane vectors: Floats, Ints, Doubles, and Weights (the codes of one unit).
///
/// The order of floating-point operations of one (token, row) is fixed here and depends on nothing
/// but the columns: that is what makes the op batch-invariant. Integer sums are exact.
namespace troupe::cpu {

template <class Isa, CodeLayout kLayout>
struct UnitScales {
  static constexpr int64_t kBytes =
      scales_per_unit(kLayout) * kPanelRows * static_cast<int64_t>(has_f32_scales(kLayout) ? 4 : 2);

  [[gnu::always_inline]] static typename Isa::Floats load(const std::byte* p, int64_t which) {
    if constexpr (has_f32_scales(kLayout)) {
      return Isa::load_f32(p + which * kPanelRows * 4);
    } else {
      return Isa::load_f16(p + which * kPanelRows * 2);
    }
  }
};

// sum[t] = codes times activations: the coarse parts, moved up, and the fine parts where they are.
template <class Isa, int kFirst, int kLast, int kTokens, class Weights>
[[gnu::always_inline]] inline void dot_both(const Weights& w, const ActivationBlock* x,
                                            typename Isa::Ints* sum) {
  for (int t = 0; t < kTokens; ++t) sum[t] = Isa::zero();
  Isa::template dot<kFirst, kLast, kTokens, 0>(w, x, sum);
  for (int t = 0; t < kTokens; ++t) sum[t] = Isa::template shift_left<8>(sum[t]);
#pragma GCC unroll 8  // or the sums go to memory
  for (int t = 0; t < kTokens; ++t) {
    if (x[t].wide != 0) Isa::template dot<kFirst, kLast, 1, 1>(w, x + t, sum + t);
  }
}

// acc[t] += the product of one unit of sixteen rows with 32 activations, for kTokens tokens side by
// side: one token's eight dot products wait for each other, so tokens are interleaved.
template <class Isa, CodeLayout kLayout, int kTokens>
[[gnu::always_inline]] inline void add_unit(
    typename Isa::Floats* acc, const typename Isa::template Weights<has_nibbles(kLayout)>& w,
    typename Isa::Floats s0, typename Isa::Floats s1, const ActivationBlock* x) {
  typename Isa::Ints sum[kTokens];
  if constexpr (kLayout == CodeLayout::kByteSplitF32) {
    dot_both<Isa, 0, 4, kTokens>(w, x, sum);
    for (int t = 0; t < kTokens; ++t) {
      sum[t] = Isa::add(sum[t], Isa::broadcast(&x[t].half_bias[0]));
      const auto scale = Isa::mul(s0, Isa::broadcast(&x[t].scale));
      acc[t] = Isa::fma(Isa::to_floats(sum[t]), scale, acc[t]);
    }
    dot_both<Isa, 4, 8, kTokens>(w, x, sum);
    for (int t = 0; t < kTokens; ++t) {
      sum[t] = Isa::add(sum[t], Isa::broadcast(&x[t].half_bias[1]));
      const auto scale = Isa::mul(s1, Isa::broadcast(&x[t].scale));
      acc[t] = Isa::fma(Isa::to_floats(sum[t]), scale, acc[t]);
    }
  } else {
    dot_both<Isa, 0, 8, kTokens>(w, x, sum);
    for (int t = 0; t < kTokens; ++t) {
      if constexpr (!is_affine(kLayout)) {
        auto bias = Isa::broadcast(&x[t].bias);
        if constexpr (kLayout == CodeLayout::kNibbleSymmetric) {
          bias = Isa::template shift_right<4>(bias);  // the centre is 8, not 128
        }
        sum[t] = Isa::add(sum[t], bias);
      }
      const auto scale = Isa::mul(s0, Isa::broadcast(&x[t].scale));
      acc[t] = Isa::fma(Isa::to_floats(sum[t]), scale, acc[t]);
      if constexpr (is_affine(kLayout)) {
        acc[t] = Isa::fma(s1, Isa::broadcast(&x[t].scaled_sum), acc[t]);
      }
    }
  }
}

template <class Isa>
[[gnu::always_inline]] inline void write_rows(const PanelRun& run, int64_t row, int64_t token,
                                              typename Isa::Floats value) {
  const int64_t n = run.rows - row < kPanelRows ? run.rows - row : kPanelRows;
  if (run.bias != nullptr) value = Isa::add(value, Isa::load_n(run.bias + row, n));
  Isa::store_n(run.out + token * run.out_stride + row, value, n);
}

// Weights stream from memory in runs too short for the hardware's prefetching: whole panels ahead
// they are asked into the second-level cache.
[[gnu::always_inline]] inline int64_t prefetch_distance(int64_t panel_stride) {
  constexpr int64_t bytes = 48 * 1024;
  return bytes < panel_stride ? panel_stride : bytes / panel_stride * panel_stride;
}

// One panel times kTokens tokens: their sums stay in registers while the units go by.
template <class Isa, CodeLayout kLayout, int kTokens>
[[gnu::always_inline]] inline void multiply_panel(const PanelRun& run, int64_t row, int64_t token,
                                                  const ActivationBlock* x) {
  using Scales = UnitScales<Isa, kLayout>;
  constexpr bool nibbles = has_nibbles(kLayout);
  constexpr int64_t code_bytes = kPanelRows * kUnit / (nibbles ? 2 : 1);
  constexpr int64_t last_scale = scales_per_unit(kLayout) - 1;
  const int64_t units = run.cols / kUnit;
  const std::byte* codes = run.panels + row / kPanelRows * run.panel_stride;
  const std::byte* scales = codes + units * code_bytes;
  const ActivationBlock* block = x + token;
  const int64_t ahead = prefetch_distance(run.panel_stride);
  typename Isa::Floats acc[kTokens];
  for (int t = 0; t < kTokens; ++t) acc[t] = Isa::zero_floats();
  for (int64_t u = 0; u < units; ++u, codes += code_bytes, scales += Scales::kBytes) {
    for (int64_t b = 0; b < code_bytes; b += kCacheLine)
      __builtin_prefetch(codes + ahead + b, 0, 2);
    for (int64_t b = 0; b < Scales::kBytes; b += kCacheLine) {
      __builtin_prefetch(scales + ahead + b, 0, 2);
    }
    const auto w = Isa::template load_codes<nibbles>(codes);
    add_unit<Isa, kLayout, kTokens>(acc, w, Scales::load(scales, 0),
                                    Scales::load(scales, last_scale), block);
    block += run.n_tokens;
  }
  for (int t = 0; t < kTokens; ++t) write_rows<Isa>(run, row, token + t, acc[t]);
}

// Rows [begin, end) times tokens [token, n_tokens) in groups of kTokens, the rest in smaller
// groups.
template <class Isa, CodeLayout kLayout, int kTokens>
[[gnu::always_inline]] inline void multiply_groups(const PanelRun& run, int64_t begin, int64_t end,
                                                   int64_t token, const ActivationBlock* x) {
  for (; token + kTokens <= run.n_tokens; token += kTokens) {
    for (int64_t row = begin; row < end; row += kPanelRows) {
      multiply_panel<Isa, kLayout, kTokens>(run, row, token, x);
    }
  }
  if constexpr (kTokens > 1) {
    multiply_groups<Isa, kLayout, kTokens / 2>(run, begin, end, token, x);
  }
}

// The first-level cache holds a group's activations; so many bytes of panels, read once per group,
// stay in the second.
constexpr int64_t kPanelBlockBytes = 128 * 1024;

template <class Isa, CodeLayout kLayout>
void multiply_quantized(const PanelRun& run, const ActivationBlock* x) {
  const int64_t panels = kPanelBlockBytes / run.panel_stride;
  const int64_t rows = (panels < 1 ? 1 : panels) * kPanelRows;
  for (int64_t begin = 0; begin < run.rows; begin += rows) {
    const int64_t end = begin + rows < run.rows ? begin + rows : run.rows;
    multiply_groups<Isa, kLayout, Isa::kTokenGroup>(run, begin, end, 0, x);
  }
}

// How a plain panel is read and summed: even and odd columns apart, joined at the end, so that two
// chains of additions overlap.
template <class Isa, PlainLayout kLayout>
struct Plain {
  using Acc = typename Isa::Floats;
  static constexpr int64_t kElementBytes = kLayout == PlainLayout::kF32 ? 4 : 2;
  [[gnu::always_inline]] static Acc zero() { return Isa::zero_floats(); }
  [[gnu::always_inline]] static Acc weights(const std::byte* p) {
    if constexpr (kLayout == PlainLayout::kF32) return Isa::load_f32(p);
    if constexpr (kLayout == PlainLayout::kF16) return Isa::load_f16(p);
    if constexpr (kLayout == PlainLayout::kBF16) return Isa::load_bf16(p);
  }
  [[gnu::always_inline]] static Acc activation(const float* x) { return Isa::broadcast(x); }
  [[gnu::always_inline]] static typename Isa::Floats total(Acc a, Acc b) { return Isa::add(a, b); }
};

template <class Isa>
struct Plain<Isa, PlainLayout::kExact> {
  using Acc = typename Isa::Doubles;
  static constexpr int64_t kElementBytes = 4;
  [[gnu::always_inline]] static Acc zero() { return Isa::zero_doubles(); }
  [[gnu::always_inline]] static Acc weights(const std::byte* p) {
    return Isa::widen(Isa::load_f32(p));
  }
  [[gnu::always_inline]] static Acc activation(const float* x) { return Isa::broadcast_wide(x); }
  [[gnu::always_inline]] static typename Isa::Floats total(Acc a, Acc b) {
    return Isa::narrow(Isa::add(a, b));
  }
};

template <class Isa, PlainLayout kLayout, int kTokens>
[[gnu::always_inline]] inline void multiply_plain_tile(const PanelRun& run, int64_t row,
                                                       const float* x, int64_t token) {
  using P = Plain<Isa, kLayout>;
  constexpr int64_t step = kPanelRows * P::kElementBytes;
  const std::byte* w = run.panels + row / kPanelRows * run.panel_stride;
  typename P::Acc even[kTokens];
  typename P::Acc odd[kTokens];
  for (int t = 0; t < kTokens; ++t) even[t] = odd[t] = P::zero();
  int64_t col = 0;
  for (; col + 1 < run.cols; col += 2, w += 2 * step) {
    const auto w0 = P::weights(w);
    const auto w1 = P::weights(w + step);
    for (int t = 0; t < kTokens; ++t) {
      const float* xt = x + (token + t) * run.cols + col;
      even[t] = Isa::fma(w0, P::activation(xt), even[t]);
      odd[t] = Isa::fma(w1, P::activation(xt + 1), odd[t]);
    }
  }
  if (col < run.cols) {
    const auto w0 = P::weights(w);
    for (int t = 0; t < kTokens; ++t) {
      even[t] = Isa::fma(w0, P::activation(x + (token + t) * run.cols + col), even[t]);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    write_rows<Isa>(run, row, token + t, P::total(even[t], odd[t]));
  }
}

template <class Isa, PlainLayout kLayout>
void multiply_plain(const PanelRun& run, const float* x) {
  constexpr int group = Isa::kPlainTokens / (kLayout == PlainLayout::kExact ? 2 : 1);
  for (int64_t row = 0; row < run.rows; row += kPanelRows) {
    int64_t t = 0;
    for (; t + group <= run.n_tokens; t += group) {
      multiply_plain_tile<Isa, kLayout, group>(run, row, x, t);
    }
    for (; t < run.n_tokens; ++t) multiply_plain_tile<Isa, kLayout, 1>(run, row, x, t);
  }
}

// The scale of 32 activations whose largest magnitude has the bits `max_bits` (as integers, the
// order of magnitudes is the order of bits, with infinities and NaN above all numbers).
struct ActivationScale {
  float scale;
  float inverse;
};
template <class Isa>
[[gnu::always_inline]] inline ActivationScale activation_scale(int32_t max_bits) {
  if (max_bits >= 0x7f800000) return {__builtin_nanf(""), 0.0F};
  float max = 0.0F;
  __builtin_memcpy(&max, &max_bits, sizeof max);
  // Below this 127 / max would overflow; nothing a model computes with is that small.
  if (max < 1e-30F) return {0.0F, 0.0F};
  return {max / (127.0F * 256.0F), 127.0F * 256.0F / max};
}

template <class Isa>
void quantize_row(const float* x, int64_t units, ActivationBlock* out, int64_t stride) {
  const auto as_float = [](int32_t bits) {
    float v = 0.0F;
    __builtin_memcpy(&v, &bits, sizeof v);
    return v;
  };
  float total = 0.0F;  // of the blocks' largest magnitudes; no block is wide when it is not finite
  for (int64_t u = 0; u < units; ++u) {
    const int32_t max_bits = Isa::max_magnitude_bits(x + u * kUnit);
    total += as_float(max_bits);
    out[u * stride].bias = max_bits;  // kept there for the second round
  }
  const float wide_above = total / static_cast<float>(units) * kWideRatio;
  for (int64_t u = 0; u < units; ++u, x += kUnit, out += stride) {
    const ActivationScale s = activation_scale<Isa>(out->bias);
    out->wide = as_float(out->bias) > wide_above ? 1 : 0;
    int32_t sums[2] = {0, 0};
    for (int h = 0; h < 2; ++h) {
      if (s.inverse == 0.0F) {
        for (int i = 0; i < 16; ++i) out->q[0][16 * h + i] = out->q[1][16 * h + i] = 0;
      } else {
        sums[h] = Isa::round_16(x + 16 * h, s.inverse, out->wide != 0, out->q[0] + 16 * h,
                                out->q[1] + 16 * h);
      }
      out->half_bias[h] = -128 * sums[h];
    }
    out->scale = s.scale;
    out->scaled_sum = s.scale * static_cast<float>(sums[0] + sums[1]);
    out->bias = -128 * (sums[0] + sums[1]);
  }
}

template <class Isa>
constexpr LinearKernels make_kernels(const char* name) {
  return {name,
          quantize_row<Isa>,
          {multiply_quantized<Isa, CodeLayout::kNibbleSymmetric>,
           multiply_quantized<Isa, CodeLayout::kNibbleAffine>,
           multiply_quantized<Isa, CodeLayout::kNibbleAffineF32>,
           multiply_quantized<Isa, CodeLayout::kByteSymmetric>,
           multiply_quantized<Isa, CodeLayout::kByteAffine>,
           multiply_quantized<Isa, CodeLayout::kByteSplitF32>},
          {multiply_plain<Isa, PlainLayout::kF32>, multiply_plain<Isa, PlainLayout::kF16>,
           multiply_plain<Isa, PlainLayout::kBF16>, multiply_plain<Isa, PlainLayout::kExact>}};
}

}  // namespace troupe::cpu
