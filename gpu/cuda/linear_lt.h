#pragma once

#include "gpu/cuda/linear_shape.h"

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <span>
#include <vector>

/// Inside of Linear: multiplies through cuBLASLt.
namespace troupe::cuda {

/// One multiply ready to run: layouts and the algorithm.
struct LtPlan {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t weights, tokens, out;
  cublasLtMatmulAlgo_t algorithm;
};

/// A cuBLASLt handle. Pointers given to run() are 16-byte aligned. One thread.
class LtGemm {
 public:
  LtGemm();
  ~LtGemm();
  LtGemm(const LtGemm&) = delete;
  LtGemm& operator=(const LtGemm&) = delete;

  /// Up to `most` ways to do it, best guess first; empty when cuBLASLt has none for this shape.
  [[nodiscard]] std::vector<LtPlan> plans(const GemmShape& shape, size_t workspace_bytes,
                                          int32_t most) const;
  /// The plan with a stored algorithm, when the library still accepts it in that workspace.
  [[nodiscard]] std::vector<LtPlan> plan(const GemmShape& shape, size_t workspace_bytes,
                                         const cublasLtMatmulAlgo_t& algorithm) const;
  /// Capturable.
  void run(const LtPlan& plan, const GemmCall& call, std::span<std::byte> workspace,
           cudaStream_t stream) const;

 private:
  cublasLtHandle_t handle_ = nullptr;
};

}  // namespace troupe::cuda
