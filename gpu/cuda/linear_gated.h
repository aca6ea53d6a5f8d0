#pragma once

#include "gpu/cuda/linear.h"

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <tuple>

namespace troupe::cuda {

/// The gate and up multiplies of an MLP and silu(gate) * up behind them in one kernel, for many
/// tokens: the product of 2 * width columns, the widest tensor of a step, never reaches memory. For
/// few tokens or shapes that leave multiprocessors idle Linear and silu_mul() are faster; suits()
/// tells. One device, one thread; needs compute capability 9.0.
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
  using Encode = decltype(&cuTensorMapEncodeTiled);
  using MapKey = std::tuple<const void*, int64_t, int64_t, int32_t, int32_t>;
  /// A row-major matrix that is copied in boxes of box_rows rows and 128 bytes.
  const CUtensorMap& map_of(const void* data, int64_t rows, int64_t cols, int32_t box_rows,
                            int32_t element_bytes);

  Encode encode_ = nullptr;  // null: not on this device
  int32_t n_clusters_ = 0;   // that run at once
  std::map<MapKey, CUtensorMap> maps_;
};

}  // namespace troupe::cuda
