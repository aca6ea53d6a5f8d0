#pragma once

#include <bit>
#include <cstdint>

namespace troupe {

/// IEEE binary16 bits -> float, exact, subnormals, infinities and NaN included.
constexpr float float_from_f16(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 0x1fu;
  uint32_t mantissa = h & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  if (mantissa == 0) return std::bit_cast<float>(sign);
  uint32_t shift = 0;
  while ((mantissa & 0x400u) == 0) {
    mantissa <<= 1;
    ++shift;
  }
  return std::bit_cast<float>(sign | ((113 - shift) << 23) | ((mantissa & 0x3ffu) << 13));
}

/// float -> IEEE binary16 bits, round to nearest even; overflow becomes infinity.
constexpr uint16_t f16_from_float(float f) {
  const uint32_t bits = std::bit_cast<uint32_t>(f);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x7f800000u) {
    return static_cast<uint16_t>(sign | 0x7c00u | (magnitude > 0x7f800000u ? 0x200u : 0u));
  }
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x33000001u) return sign;
  uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  const int32_t exponent = static_cast<int32_t>(magnitude >> 23) - 112;
  const int32_t drop = exponent >= 1 ? 13 : 14 - exponent;
  const uint32_t half = 1u << (drop - 1);
  const uint32_t rest = mantissa & ((1u << drop) - 1);
  mantissa >>= drop;
  if (rest > half || (rest == half && (mantissa & 1u) != 0)) ++mantissa;
  const uint32_t base = exponent >= 1 ? (static_cast<uint32_t>(exponent - 1) << 10) : 0u;
  return static_cast<uint16_t>(sign | (base + mantissa));
}

/// float -> bfloat16 bits, round to nearest even; NaN stays NaN.
constexpr uint16_t bf16_from_float(float f) {
  const uint32_t bits = std::bit_cast<uint32_t>(f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// e4m3 code -> float, exact: 4 bits of exponent (bias 7), 3 of mantissa, no infinities, NaN =
/// 0x7f and 0xff.
constexpr float float_from_e4m3(uint8_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24;
  const uint32_t exponent = (code >> 3) & 15u;
  const uint32_t mantissa = code & 7u;
  if (exponent == 15 && mantissa == 7) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-9F;
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 120) << 23) | (mantissa << 20));
}

/// bfloat16 bits -> float, exact.
constexpr float float_from_bf16(uint16_t h) {
  return std::bit_cast<float>(static_cast<uint32_t>(h) << 16);
}

}  // namespace troupe
