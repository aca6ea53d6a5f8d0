#pragma once

// Kernels that see one token: norms, activation, rotary embedding. See vec.h for who includes this.

#include "gpu/ops/kernels.h"
#include "gpu/ops/vec.h"

#include <cstdint>

namespace troupe::cpu {
namespace {

void rms_norm_token(float* out, float* sum, const float* x, const float* add, const float* weight,
                    int32_t n, float eps) {
  constexpr int kW = Vec::kWidth;
  F squares[2] = {Vec::zero(), Vec::zero()};
  int32_t i = 0;
  for (int part = 0; i + kW <= n; i += kW, part ^= 1) {
    F v = Vec::load(x + i);
    if (add != nullptr) v = Vec::add(v, Vec::load(add + i));
    if (sum != nullptr) Vec::store(sum + i, v);
    squares[part] = Vec::fma(v, v, squares[part]);
  }
  float total = Vec::sum(Vec::add(squares[0], squares[1]));
  for (; i < n; ++i) {
    const float v = add != nullptr ? x[i] + add[i] : x[i];
    if (sum != nullptr) sum[i] = v;
    total += v * v;
  }
  if (sum != nullptr) x = sum;
  const float factor = 1.0F / __builtin_sqrtf(total / static_cast<float>(n) + eps);
  i = 0;
  for (; i + kW <= n; i += kW)
    Vec::store(out + i,
               Vec::mul(Vec::mul(Vec::load(x + i), Vec::set1(factor)), Vec::load(weight + i)));
  for (; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

F silu_mul_vector(F gate, F up) {
  const F e = vec_exp(Vec::sub(Vec::zero(), gate));
  return Vec::mul(Vec::div(gate, Vec::add(Vec::set1(1.0F), e)), up);
}

void silu_mul_token(float* out, const float* gate, const float* up, int32_t n) {
  constexpr int kW = Vec::kWidth;
  int32_t i = 0;
  for (; i + kW <= n; i += kW)
    Vec::store(out + i, silu_mul_vector(Vec::load(gate + i), Vec::load(up + i)));
  if (i == n) return;
  float g[kW] = {};
  float u[kW] = {};
  for (int j = 0; i + j < n; ++j) {
    g[j] = gate[i + j];
    u[j] = up[i + j];
  }
  Vec::store(g, silu_mul_vector(Vec::load(g), Vec::load(u)));
  for (int j = 0; i + j < n; ++j) out[i + j] = g[j];
}

/// Angles in double, so that positions of 10^5 and more keep all the accuracy that floats can show.
/// No branches: the loop is vectorised.
void rope_angles(float* cos, float* sin, const float* inverse_frequency, int32_t n, float magnitude,
                 int32_t position) {
  for (int32_t i = 0; i < n; ++i) {
    const double angle = static_cast<double>(position) * static_cast<double>(inverse_frequency[i]);
    // angle = quadrant * pi / 2 + r, |r| <= pi / 4; the first part of pi / 2 has 33 bits, so that
    // its product with the quadrant is exact.
    const double magic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
    const double shifted = angle * 0.63661977236758134308 + magic;
    const double quadrant = shifted - magic;
    const auto bits = static_cast<uint64_t>(__builtin_bit_cast(uint64_t, shifted));
    const double r =
        (angle - quadrant * 1.57079632673412561417) - quadrant * 6.07710050650619224932e-11;
    const double r2 = r * r;
    const double s =
        r + r * r2 *
                (-1.0 / 6 +
                 r2 * (1.0 / 120 + r2 * (-1.0 / 5040 + r2 * (1.0 / 362880 - r2 / 39916800))));
    const double c =
        1.0 + r2 * (-0.5 + r2 * (1.0 / 24 + r2 * (-1.0 / 720 + r2 * (1.0 / 40320 - r2 / 3628800))));
    const bool swap = (bits & 1) != 0;
    const double sine = swap ? c : s;
    const double cosine = swap ? s : c;
    sin[i] = static_cast<float>(((bits & 2) != 0 ? -sine : sine) * static_cast<double>(magnitude));
    cos[i] = static_cast<float>((((bits + 1) & 2) != 0 ? -cosine : cosine) *
                                static_cast<double>(magnitude));
  }
}

void rope_head(float* __restrict head, const float* __restrict cos, const float* __restrict sin,
               int32_t rotary_dim, bool interleaved) {
  const int32_t n = rotary_dim / 2;
  if (interleaved) {
    for (int32_t i = 0; i < n; ++i) {
      const float a = head[2 * i];
      const float b = head[2 * i + 1];
      head[2 * i] = a * cos[i] - b * sin[i];
      head[2 * i + 1] = a * sin[i] + b * cos[i];
    }
  } else {
    for (int32_t i = 0; i < n; ++i) {
      const float a = head[i];
      const float b = head[n + i];
      head[i] = a * cos[i] - b * sin[i];
      head[n + i] = a * sin[i] + b * cos[i];
    }
  }
}

void store_f16(uint16_t* out, const float* x, int32_t n) { f16_from_floats(out, x, n); }

}  // namespace
}  // namespace troupe::cpu
