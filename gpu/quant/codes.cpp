#include "gpu/quant/codes.h"

#include "gpu/base/check.h"
#include "gpu/quant/bytes.h"

namespace troupe {
namespace {

using quant::f16_at;
using quant::u32_at;
using quant::u8_at;

// Symmetric byte formats are centred on 128 whatever centre the file uses, so that one kernel
// serves them all.
void read_nibbles(const std::byte* qs, CodeUnit& out) {
  for (int64_t i = 0; i < 16; ++i) {
    const uint32_t byte = u8_at(qs, i);
    out.codes[i] = static_cast<uint8_t>(byte & 15u);
    out.codes[i + 16] = static_cast<uint8_t>(byte >> 4);
  }
}

void add_fifth_bits(uint32_t bits, uint32_t shift_centre, CodeUnit& out) {
  for (uint32_t i = 0; i < 32; ++i) {
    out.codes[i] = static_cast<uint8_t>((out.codes[i] | (((bits >> i) & 1u) << 4)) + shift_centre);
  }
}

void read_q4_k(const std::byte* block, int64_t sub, CodeUnit& out) {
  const auto [scale, min] = quant::q4_k_scale_min(block + 4, sub);
  out.scales[0] = f16_at(block, 0) * static_cast<float>(scale);
  out.scales[1] = -(f16_at(block, 2) * static_cast<float>(min));
  const std::byte* qs = block + 16 + 32 * (sub / 2);
  const uint32_t shift = sub % 2 == 0 ? 0 : 4;
  for (int64_t i = 0; i < 32; ++i) {
    out.codes[i] = static_cast<uint8_t>((u8_at(qs, i) >> shift) & 15u);
  }
}

void read_q6_k(const std::byte* block, int64_t sub, CodeUnit& out) {
  const int64_t half = sub / 4;
  const int64_t quarter = sub % 4;  // of the half's 128 elements
  const std::byte* low = block + 64 * half + 32 * (quarter % 2);
  const std::byte* high = block + 128 + 32 * half;
  const uint32_t low_shift = quarter < 2 ? 0 : 4;
  const auto high_shift = static_cast<uint32_t>(2 * quarter);
  for (int64_t i = 0; i < 32; ++i) {
    const uint32_t q =
        ((u8_at(low, i) >> low_shift) & 15u) | (((u8_at(high, i) >> high_shift) & 3u) << 4);
    out.codes[i] = static_cast<uint8_t>(q + (128 - 32));
  }
  const float d = f16_at(block, 208);
  for (int64_t s = 0; s < 2; ++s) {
    out.scales[s] = d * static_cast<float>(static_cast<int8_t>(u8_at(block, 192 + 2 * sub + s)));
  }
}

}  // namespace

CodeLayout code_layout(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0: return CodeLayout::kNibbleSymmetric;
    case DType::kQ4_1: return CodeLayout::kNibbleAffine;
    case DType::kQ5_0:
    case DType::kQ8_0: return CodeLayout::kByteSymmetric;
    case DType::kQ5_1: return CodeLayout::kByteAffine;
    case DType::kQ4_K: return CodeLayout::kNibbleAffineF32;
    case DType::kQ6_K: return CodeLayout::kByteSplitF32;
    default: break;
  }
  TROUPE_CHECK(false) << to_string(dtype) << " has no codes";
  return CodeLayout::kByteSymmetric;
}

void read_codes(DType dtype, const std::byte* row, int64_t unit, CodeUnit& out) {
  const int64_t units_per_block = block_elements(dtype) / kUnit;
  const std::byte* block = row + unit / units_per_block * block_bytes(dtype);
  out.scales[0] = f16_at(block, 0);
  out.scales[1] = 0;
  switch (dtype) {
    case DType::kQ4_0: read_nibbles(block + 2, out); break;
    case DType::kQ4_1:
      out.scales[1] = f16_at(block, 2);
      read_nibbles(block + 4, out);
      break;
    case DType::kQ5_0:
      read_nibbles(block + 6, out);
      add_fifth_bits(u32_at(block, 2), 128 - 16, out);
      break;
    case DType::kQ5_1:
      out.scales[1] = f16_at(block, 2);
      read_nibbles(block + 8, out);
      add_fifth_bits(u32_at(block, 4), 0, out);
      break;
    case DType::kQ8_0:
      for (int64_t i = 0; i < kUnit; ++i) {
        out.codes[i] = static_cast<uint8_t>(u8_at(block, 2 + i) ^ 0x80u);
      }
      break;
    case DType::kQ4_K: read_q4_k(block, unit % 8, out); break;
    case DType::kQ6_K: read_q6_k(block, unit % 8, out); break;
    default: TROUPE_CHECK(false) << to_string(dtype) << " has no codes";
  }
}

}  // namespace troupe
