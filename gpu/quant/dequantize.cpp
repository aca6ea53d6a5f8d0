#include "gpu/quant/dequantize.h"

#include "gpu/quant/bytes.h"

#include <algorithm>
#include <bit>

namespace troupe {
namespace {

using quant::f16_at;
using quant::u16_at;
using quant::u32_at;
using quant::u8_at;

// Formats of 32: byte i of `qs` carries element i in its low and element i + 16 in its high nibble.

// {f16 d; u8 qs[16]}: w = d * (q - 8)
void q4_0(const std::byte* block, float* out) {
  const float d = f16_at(block, 0);
  for (int64_t i = 0; i < 16; ++i) {
    const auto q = static_cast<int32_t>(u8_at(block, 2 + i));
    out[i] = d * static_cast<float>((q & 15) - 8);
    out[i + 16] = d * static_cast<float>((q >> 4) - 8);
  }
}

// {f16 d; f16 m; u8 qs[16]}: w = d * q + m
void q4_1(const std::byte* block, float* out) {
  const float d = f16_at(block, 0);
  const float m = f16_at(block, 2);
  for (int64_t i = 0; i < 16; ++i) {
    const uint32_t q = u8_at(block, 4 + i);
    out[i] = d * static_cast<float>(q & 15u) + m;
    out[i + 16] = d * static_cast<float>(q >> 4) + m;
  }
}

// {f16 d; u32 qh; u8 qs[16]}: bit i of qh is bit 4 of element i; w = d * (q - 16)
void q5_0(const std::byte* block, float* out) {
  const float d = f16_at(block, 0);
  const uint32_t high = u32_at(block, 2);
  for (int64_t i = 0; i < 32; ++i) {
    const uint32_t byte = u8_at(block, 6 + i % 16);
    const uint32_t q = (i < 16 ? byte & 15u : byte >> 4) | (((high >> i) & 1u) << 4);
    out[i] = d * static_cast<float>(static_cast<int32_t>(q) - 16);
  }
}

// {f16 d; f16 m; u32 qh; u8 qs[16]}: as Q5_0, w = d * q + m
void q5_1(const std::byte* block, float* out) {
  const float d = f16_at(block, 0);
  const float m = f16_at(block, 2);
  const uint32_t high = u32_at(block, 4);
  for (int64_t i = 0; i < 32; ++i) {
    const uint32_t byte = u8_at(block, 8 + i % 16);
    const uint32_t q = (i < 16 ? byte & 15u : byte >> 4) | (((high >> i) & 1u) << 4);
    out[i] = d * static_cast<float>(q) + m;
  }
}

// {f16 d; i8 qs[32]}: w = d * q
void q8_0(const std::byte* block, float* out) {
  const float d = f16_at(block, 0);
  for (int64_t i = 0; i < 32; ++i) {
    out[i] = d * static_cast<float>(static_cast<int8_t>(u8_at(block, 2 + i)));
  }
}

// {f16 d; f16 dmin; u8 scales[12]; u8 qs[128]}: eight sub-blocks of 32 with
// w = (d * scale) * q - (dmin * min); sub-blocks 2j and 2j + 1 are the low and the high nibbles of
// qs[32j .. 32j + 31].
void q4_k(const std::byte* block, float* out) {
  const float d = f16_at(block, 0);
  const float dmin = f16_at(block, 2);
  for (int64_t sub = 0; sub < 8; ++sub) {
    const auto [scale, min] = quant::q4_k_scale_min(block + 4, sub);
    const float ds = d * static_cast<float>(scale);
    const float dm = dmin * static_cast<float>(min);
    for (int64_t i = 0; i < 32; ++i) {
      const uint32_t byte = u8_at(block, 16 + 32 * (sub / 2) + i);
      out[32 * sub + i] = ds * static_cast<float>(sub % 2 == 0 ? byte & 15u : byte >> 4) - dm;
    }
  }
}

// {u8 ql[128]; u8 qh[64]; i8 scales[16]; f16 d}: sixteen sub-blocks of 16 with
// w = (d * scale) * (q - 32). Each half of 128 elements takes 64 bytes of ql (element i and i + 64
// share byte i's nibbles) and 32 of qh (elements i, i + 32, i + 64, i + 96 share byte i, two bits
// each).
void q6_k(const std::byte* block, float* out) {
  const float d = f16_at(block, 208);
  for (int64_t e = 0; e < 256; ++e) {
    const int64_t half = e / 128;
    const int64_t i = e % 128;
    const uint32_t low = u8_at(block, 64 * half + i % 64);
    const uint32_t high = u8_at(block, 128 + 32 * half + i % 32);
    const uint32_t q = (i < 64 ? low & 15u : low >> 4) | (((high >> (2 * (i / 32))) & 3u) << 4);
    const auto scale = static_cast<int8_t>(u8_at(block, 192 + e / 16));
    out[e] = d * static_cast<float>(scale) * static_cast<float>(static_cast<int32_t>(q) - 32);
  }
}

void dequantize_block(DType dtype, const std::byte* block, float* out) {
  switch (dtype) {
    case DType::kF32: *out = std::bit_cast<float>(u32_at(block, 0)); break;
    case DType::kF16: *out = f16_at(block, 0); break;
    case DType::kBF16: *out = float_from_bf16(u16_at(block, 0)); break;
    case DType::kF8E4M3: *out = float_from_e4m3(static_cast<uint8_t>(u8_at(block, 0))); break;
    case DType::kQ4_0: q4_0(block, out); break;
    case DType::kQ4_1: q4_1(block, out); break;
    case DType::kQ5_0: q5_0(block, out); break;
    case DType::kQ5_1: q5_1(block, out); break;
    case DType::kQ8_0: q8_0(block, out); break;
    case DType::kQ4_K: q4_k(block, out); break;
    case DType::kQ6_K: q6_k(block, out); break;
  }
}

}  // namespace

void dequantize_row(DType dtype, const std::byte* row, int64_t col_begin, int64_t col_end,
                    float* out) {
  const int64_t elements = block_elements(dtype);
  float values[256];
  for (int64_t col = col_begin; col < col_end;) {
    const int64_t block = col / elements;
    const int64_t end = std::min(col_end, (block + 1) * elements);
    dequantize_block(dtype, row + block * block_bytes(dtype), values);
    out = std::copy(values + col % elements, values + (end - block * elements), out);
    col = end;
  }
}

}  // namespace troupe
