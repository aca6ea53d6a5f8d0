#pragma once

#include "gpu/base/dtype.h"

#include <cstddef>
#include <cstdint>

namespace troupe {

/// Expands elements [col_begin, col_end) of one row to fp32: out[i] = element col_begin + i.
/// `row` points to the row's first byte. Any range is allowed; only the blocks it touches are read.
/// Written plainly: this is the definition of every format (GGUF's block layouts, little-endian),
/// and what the fast paths are tested against.
void dequantize_row(DType dtype, const std::byte* row, int64_t col_begin, int64_t col_end,
                    float* out);

}  // namespace troupe
