#pragma once

#include "gpu/ops/linear.h"
#include "gpu/ops/linear_kernels.h"

#include <cstdlib>
#include <vector>

/// Inside of gpu/ops/linear: a packed matrix.
namespace troupe::cpu {

/// One slice of a matrix as consecutive panels of one layout.
struct Segment {
  bool quantised = false;
  CodeLayout codes = CodeLayout::kByteSymmetric;  // when quantised
  PlainLayout plain = PlainLayout::kF32;          // when not
  int64_t row_begin = 0;                          // output row of its first row
  int64_t rows = 0;
  int64_t panel_begin = 0;  // its first panel, counted over the matrix
  int64_t offset = 0;       // of that panel in the storage
  int64_t panel_stride = 0;

  [[nodiscard]] int64_t panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
};

struct FreeDeleter {
  void operator()(std::byte* p) const { std::free(p); }
};

struct Matrix::Impl {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t panels = 0;
  int64_t bytes = 0;
  bool any_quantised = false;
  std::vector<Segment> segments;  // by row_begin
  std::unique_ptr<std::byte, FreeDeleter> storage;
  const LinearKernels* kernels = nullptr;

  [[nodiscard]] const std::byte* panel(const Segment& s, int64_t panel) const {
    return storage.get() + s.offset + (panel - s.panel_begin) * s.panel_stride;
  }
};

/// The segment that holds global row `row`. O(log slices).
const Segment& segment_of_row(const Matrix::Impl& m, int64_t row);

/// Matrix::pack with the kernels given, for tests and benchmarks. Panels look the same for all of
/// them.
Result<std::unique_ptr<Matrix::Impl>> pack_matrix(std::span<const MatrixSlice> slices,
                                                  WeightMode mode, const LinearKernels& kernels,
                                                  Stream& stream);

/// linear() on the inside of a matrix.
void multiply(float* out, const Matrix::Impl& w, const float* x, const float* bias,
              int32_t n_tokens, Stream& stream);

}  // namespace troupe::cpu
