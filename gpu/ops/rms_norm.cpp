#include "gpu/ops/rms_norm.h"

#include "gpu/device/stream.h"
#include "gpu/ops/kernels.h"

#include <algorithm>

namespace troupe::cpu {
namespace {

/// Tokens of `width` elements that are worth handing to another thread.
int64_t token_grain(int32_t width) { return std::max<int64_t>(1, 8192 / std::max(width, 1)); }

}  // namespace

void rms_norm(float* out, const float* x, const float* weight, int32_t n_tokens, int32_t hidden,
              float eps, Stream& stream) {
  const auto norm = kernels(stream.isa()).rms_norm;
  stream.parallel_for(n_tokens, token_grain(hidden), [=](int64_t begin, int64_t end, int32_t) {
    for (int64_t t = begin; t < end; ++t)
      norm(out + t * hidden, nullptr, x + t * hidden, nullptr, weight, hidden, eps);
  });
}

void add_rms_norm(float* out, float* residual, const float* x, const float* weight,
                  int32_t n_tokens, int32_t hidden, float eps, Stream& stream) {
  const auto norm = kernels(stream.isa()).rms_norm;
  stream.parallel_for(n_tokens, token_grain(hidden), [=](int64_t begin, int64_t end, int32_t) {
    for (int64_t t = begin; t < end; ++t) {
      float* sum = residual + t * hidden;
      norm(out + t * hidden, sum, sum, x + t * hidden, weight, hidden, eps);
    }
  });
}

}  // namespace troupe::cpu
