#pragma once

#include "gpu/cuda/linear.h"

#include <compare>
#include <cstdint>

/// Inside of Linear: what one multiply is.
namespace troupe::cuda {

/// Everything that the choice of a kernel may depend on.
struct GemmShape {
  int64_t rows = 0;  // output features
  int64_t cols = 0;  // input features
  int32_t n_tokens = 0;
  WeightFormat format = WeightFormat::kBf16;
  bool f32_out = false;

  auto operator<=>(const GemmShape&) const = default;  // NOLINT(modernize-use-nullptr)
};

constexpr int64_t element_bytes(WeightFormat f) { return f == WeightFormat::kFp8 ? 1 : 2; }

/// out [n_tokens, rows] = x [n_tokens, cols] * w [rows, cols]^T, all dense and row-major.
struct GemmCall {
  void* out = nullptr;  // bf16, or fp32 when the shape says so
  const void* w = nullptr;
  const void* x = nullptr;
};

}  // namespace troupe::cuda
