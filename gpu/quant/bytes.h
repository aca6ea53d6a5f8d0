#pragma once

#include "gpu/base/half.h"

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace troupe::quant {

/// Reading little-endian fields out of unaligned block bytes.
inline uint32_t u8_at(const std::byte* p, int64_t i) { return std::to_integer<uint32_t>(p[i]); }

inline uint16_t u16_at(const std::byte* p, int64_t offset) {
  return static_cast<uint16_t>(u8_at(p, offset) | (u8_at(p, offset + 1) << 8));
}

inline uint32_t u32_at(const std::byte* p, int64_t offset) {
  uint32_t v = 0;
  std::memcpy(&v, p + offset, sizeof v);
  return v;
}

inline float f16_at(const std::byte* p, int64_t offset) {
  return float_from_f16(u16_at(p, offset));
}

/// The 6-bit scale and minimum of sub-block `j` (0..7) of a Q4_K block, out of its 12 packed bytes:
/// the first four pairs lie in the low 6 bits of bytes 0-3 and 4-7; the last four have their low
/// nibbles in bytes 8-11 and their two high bits in the top of bytes 0-7.
struct ScaleMin {
  uint32_t scale;
  uint32_t min;
};
inline ScaleMin q4_k_scale_min(const std::byte* packed, int64_t j) {
  if (j < 4) return {u8_at(packed, j) & 63u, u8_at(packed, j + 4) & 63u};
  const uint32_t low = u8_at(packed, j + 4);
  return {(low & 15u) | ((u8_at(packed, j - 4) >> 6) << 4),
          (low >> 4) | ((u8_at(packed, j) >> 6) << 4)};
}

}  // namespace troupe::quant
