#pragma once

#include "gpu/base/dtype.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace troupe {

/// A tensor inside a mapped checkpoint file: borrowed bytes, row-major, innermost dimension last.
/// A matrix is [rows = output features, cols = input features]; its rows are contiguous runs of
/// blocks along cols. Valid as long as the Checkpoint it came from.
struct TensorView {
  std::string name;  // as in the file, for messages
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  int64_t bytes = 0;

  [[nodiscard]] int64_t rows() const { return shape.size() < 2 ? 1 : shape.front(); }
  [[nodiscard]] int64_t cols() const { return shape.empty() ? 1 : shape.back(); }
  [[nodiscard]] int64_t row_bytes() const {
    return cols() / block_elements(dtype) * block_bytes(dtype);
  }
};

}  // namespace troupe
