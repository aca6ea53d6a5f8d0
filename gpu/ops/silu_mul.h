#pragma once

#include <cstdint>

namespace troupe {

class Stream;

namespace cpu {

/// out[t, i] = silu(gate_up[t, i]) * gate_up[t, width + i], silu(z) = z / (1 + exp(-z)).
/// gate_up is [n_tokens, 2 * width], out is [n_tokens, width].
void silu_mul(float* out, const float* gate_up, int32_t n_tokens, int32_t width, Stream& stream);

}  // namespace cpu
}  // namespace troupe
