#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <tuple>

namespace troupe::cuda {

/// Descriptions of row-major matrices for the copy engine, made on the host and kept. One thread.
class TensorMaps {
 public:
  /// Looks the driver's function up at run time: build machines have no driver to link with.
  TensorMaps();
  /// False on a device or driver without a copy engine.
  [[nodiscard]] bool available() const { return encode_ != nullptr; }

  /// A matrix of rows of `row_bytes`, brought in as boxes of box_rows rows and 128 bytes, swizzled
  /// by 128 bytes; what is outside of it reads as zeros. Coordinates: bytes of the row, row.
  const CUtensorMap& of(const void* data, int64_t rows, int64_t row_bytes, int32_t box_rows);

 private:
  using Encode = decltype(&cuTensorMapEncodeTiled);
  using Key = std::tuple<const void*, int64_t, int64_t, int32_t>;

  Encode encode_ = nullptr;
  std::map<Key, CUtensorMap> maps_;
};

}  // namespace troupe::cuda
