#pragma once

#include <cstddef>
#include <span>

namespace troupe {

/// out[i] = parts[0][i] + parts[1][i] + ... in that order, for i in [0, n). `out` may be none of
/// the parts. At least one part.
void rank_order_sum(float* out, std::span<const float* const> parts, size_t n);

}  // namespace troupe
