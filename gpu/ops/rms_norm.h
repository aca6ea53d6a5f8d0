#pragma once

#include <cstdint>

namespace troupe {

class Stream;

namespace cpu {

/// out[t, :] = x[t, :] / sqrt(mean(x[t, :]^2) + eps) * weight. All [n_tokens, hidden]; out may be
/// x. Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
void rms_norm(float* out, const float* x, const float* weight, int32_t n_tokens, int32_t hidden,
              float eps, Stream& stream);

/// residual += x, then out = rms_norm(residual). Same shapes; out may be x.
void add_rms_norm(float* out, float* residual, const float* x, const float* weight,
                  int32_t n_tokens, int32_t hidden, float eps, Stream& stream);

}  // namespace cpu
}  // namespace troupe
