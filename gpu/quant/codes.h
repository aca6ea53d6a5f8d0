#pragma once

#include "gpu/base/dtype.h"

#include <cstddef>
#include <cstdint>

namespace troupe {

/// How the quantised formats look to a multiply. All of them become runs ("units") of 32 elements
/// with unsigned codes and one of three rules:
///   symmetric  w = scale * (code - centre), centre 8 for nibbles and 128 for bytes
///   affine     w = scale * code + offset
///   split      symmetric with one scale for each half of 16
enum class CodeLayout : uint8_t {
  kNibbleSymmetric,  // Q4_0; scales are f16
  kNibbleAffine,     // Q4_1; f16
  kNibbleAffineF32,  // Q4_K: scale = d * sub-scale needs more bits than f16 has
  kByteSymmetric,    // Q5_0, Q8_0; f16
  kByteAffine,       // Q5_1; f16
  kByteSplitF32,     // Q6_K
};

constexpr int64_t kUnit = 32;  // elements

constexpr bool has_nibbles(CodeLayout c) {
  return c == CodeLayout::kNibbleSymmetric || c == CodeLayout::kNibbleAffine ||
         c == CodeLayout::kNibbleAffineF32;
}
constexpr bool is_affine(CodeLayout c) {
  return c == CodeLayout::kNibbleAffine || c == CodeLayout::kNibbleAffineF32 ||
         c == CodeLayout::kByteAffine;
}
constexpr bool has_f32_scales(CodeLayout c) {
  return c == CodeLayout::kNibbleAffineF32 || c == CodeLayout::kByteSplitF32;
}
/// Numbers beside the codes of one unit: scale; scale and offset; or two scales.
constexpr int64_t scales_per_unit(CodeLayout c) {
  return is_affine(c) || c == CodeLayout::kByteSplitF32 ? 2 : 1;
}
constexpr int32_t code_centre(CodeLayout c) { return is_affine(c) ? 0 : has_nibbles(c) ? 8 : 128; }

/// Requires a quantised dtype.
CodeLayout code_layout(DType dtype);

/// One unit of one row, exact: nothing is rounded on the way from the file.
struct CodeUnit {
  uint8_t codes[kUnit];
  float scales[2];  // see scales_per_unit
};

/// Unit `unit` of a row (elements [32 * unit, 32 * unit + 32)) as codes.
void read_codes(DType dtype, const std::byte* row, int64_t unit, CodeUnit& out);

}  // namespace troupe
