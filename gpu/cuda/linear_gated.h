#pragma once

#include "gpu/cuda/linear.h"
#include "gpu/cuda/linear_wide.h"
#include "gpu/cuda/tensor_maps.h"

#include <cuda_runtime.h>

#include <cstdint>

namespace troupe::cuda {

/// The gate and up multiplies of an MLP and silu(gate) * up behind them in one kernel, for many
/// tokens (gpu/cuda/linear_wide.h): the product of 2 * width columns, the widest tensor of a step,
/// never reaches memory. For few tokens or shapes that leave multiprocessors idle Linear and
/// silu_mul() are faster; suits() tells. One device, one thread; needs compute capability 9.0.
class GatedLinear {
 public:
  GatedLinear();

  /// True when run() takes the weights [2 * width, cols] and is worth it for that many tokens.
  [[nodiscard]] bool suits(const Weight& gate_up, int32_t n_tokens) const;

  /// out[t, i] = silu(g) * u, where g and u are rows i and width + i of gate_up times x[t, :], all
  /// scales applied. out is [n_tokens, width] bf16. Deterministic; a token's result does not depend
  /// on the others. Capturable: no allocation on the device.
  void run(__nv_bfloat16* out, const Weight& gate_up, const Activation& x, int32_t n_tokens,
           cudaStream_t stream);

 private:
  struct Cut {
    const WideKernel* kernel = nullptr;
    bool shares_weights = false;
    int64_t token_tiles = 0;
    int64_t column_tiles = 0;
    int64_t work = 0;  // of the busiest blocks
  };
  /// The one that leaves the fewest blocks idle.
  [[nodiscard]] Cut cut(const Weight& gate_up, int32_t n_tokens) const;

  TensorMaps maps_;
  int32_t n_pairs_ = 0;  // of blocks that run at once
};

}  // namespace troupe::cuda
