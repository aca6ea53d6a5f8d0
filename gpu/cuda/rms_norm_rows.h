#pragma once

#include "gpu/cuda/ops.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

/// Inside of add_rms_norm(): the kernel for many tokens.
namespace troupe::cuda {

/// True when add_rms_norm_rows() takes rows of that width and is worth it for so many.
bool rms_norm_rows_suits(int32_t n_tokens, int32_t hidden);

/// add_rms_norm() with a warp for each token.
void add_rms_norm_rows(const ActivationOut& out, __nv_bfloat16* residual, const Product& x,
                       const __nv_bfloat16* bias, const __nv_bfloat16* weight, int32_t n_tokens,
                       int32_t hidden, float eps, cudaStream_t stream);

}  // namespace troupe::cuda
