#include "gpu/ops/silu_mul.h"

#include "gpu/device/stream.h"
#include "gpu/ops/kernels.h"

#include <algorithm>

namespace troupe::cpu {

void silu_mul(float* out, const float* gate_up, int32_t n_tokens, int32_t width, Stream& stream) {
  const auto silu = kernels(stream.isa()).silu_mul;
  const int64_t grain = std::max<int64_t>(1, 4096 / std::max(width, 1));
  stream.parallel_for(n_tokens, grain, [=](int64_t begin, int64_t end, int32_t) {
    for (int64_t t = begin; t < end; ++t) {
      const float* gate = gate_up + t * 2 * width;
      silu(out + t * width, gate, gate + width, width);
    }
  });
}

}  // namespace troupe::cpu
