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

// sum[t] = codes times activations: the coarse parts, moved up, and the fine parts.
template <class Isa, int kFirst, int kLast, int kTokens, class Weights>
[[gnu::always_inline]] inline void dot_both(const Weights& w, const ActivationBlock* x,
                                            typename Isa::Ints* sum) {
  for (int t = 0; t < kTokens; ++t) sum[t] = Isa::zero();
  Isa::template dot<kFirst, kLast, kTokens, 0>(w, x, sum);
  for (int t = 0; t < kTokens; ++t) sum[t] = Isa::template shift_left<8>(sum[t]);
  Isa::template dot<kFirst, kLast, kTokens, 1>(w, x, sum);
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

// The same for n tokens: as many groups of kTokens as there are, the rest in smaller groups.
template <class Isa, CodeLayout kLayout, int kTokens>
[[gnu::always_inline]] inline void add_unit_n(
    typename Isa::Floats* acc, const typename Isa::template Weights<has_nibbles(kLayout)>& w,
    typename Isa::Floats s0, typename Isa::Floats s1, const ActivationBlock* x, int64_t n) {
  int64_t t = 0;
  for (; t + kTokens <= n; t += kTokens) {
    add_unit<Isa, kLayout, kTokens>(acc + t, w, s0, s1, x + t);
  }
  if constexpr (kTokens > 1) {
    add_unit_n<Isa, kLayout, kTokens / 2>(acc + t, w, s0, s1, x + t, n - t);
  }
}

template <class Isa>
[[gnu::always_inline]] inline void write_rows(const PanelRun& run, int64_t row, int64_t token,
                                              typename Isa::Floats value) {
  const int64_t n = run.rows - row < kPanelRows ? run.rows - row : kPanelRows;
  if (run.bias != nullptr) value = Isa::add(value, Isa::load_n(run.bias + row, n));
  Isa::store_n(run.out + token * run.out_stride + row, value, n);
}

template <class Isa, CodeLayout kLayout>
void multiply_quantized(const PanelRun& run, const ActivationBlock* x) {
  using Floats = typename Isa::Floats;
  using Scales = UnitScales<Isa, kLayout>;
  constexpr bool nibbles = has_nibbles(kLayout);
  constexpr int64_t code_bytes = kPanelRows * kUnit / (nibbles ? 2 : 1);
  constexpr int64_t last_scale = scales_per_unit(kLayout) - 1;
  const int64_t units = run.cols / kUnit;
  const int64_t n = run.n_tokens;
  Floats acc[kTileTokens];
  for (int64_t row = 0; row < run.rows; row += kPanelRows) {
    const std::byte* codes = run.panels + row / kPanelRows * run.panel_stride;
    const std::byte* scales = codes + units * code_bytes;
    const ActivationBlock* block = x;
    if (n == 1) {  // decode of one stream: the sum stays in a register
      Floats sum = Isa::zero_floats();
      for (int64_t u = 0; u < units; ++u, codes += code_bytes, scales += Scales::kBytes) {
        const auto w = Isa::template load_codes<nibbles>(codes);
        const Floats s0 = Scales::load(scales, 0);
        const Floats s1 = Scales::load(scales, last_scale);
        add_unit<Isa, kLayout, 1>(&sum, w, s0, s1, block++);
      }
      write_rows<Isa>(run, row, 0, sum);
      continue;
    }
    for (int64_t t = 0; t < n; ++t) acc[t] = Isa::zero_floats();
    for (int64_t u = 0; u < units; ++u, codes += code_bytes, scales += Scales::kBytes) {
      const auto w = Isa::template load_codes<nibbles>(codes);
      const Floats s0 = Scales::load(scales, 0);
      const Floats s1 = Scales::load(scales, last_scale);
      add_unit_n<Isa, kLayout, Isa::kTokenGroup>(acc, w, s0, s1, block, n);
      block += n;
    }
    for (int64_t t = 0; t < n; ++t) write_rows<Isa>(run, row, t, acc[t]);
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
  for (int64_t u = 0; u < units; ++u, x += kUnit, out += stride) {
    const ActivationScale s = activation_scale<Isa>(Isa::max_magnitude_bits(x));
    int32_t sums[2] = {0, 0};
    for (int h = 0; h < 2; ++h) {
      if (s.inverse == 0.0F) {
        for (int i = 0; i < 16; ++i) out->q[0][16 * h + i] = out->q[1][16 * h + i] = 0;
      } else {
        sums[h] = Isa::round_16(x + 16 * h, s.inverse, out->q[0] + 16 * h, out->q[1] + 16 * h);
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
