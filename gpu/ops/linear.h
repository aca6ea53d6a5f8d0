#pragma once

#include "gpu/base/result.h"
#include "gpu/base/tensor_view.h"

#include <cstdint>
#include <memory>
#include <span>

namespace troupe {

class Stream;

/// A rectangle of a checkpoint matrix: rows [row_begin, row_end) x cols [col_begin, col_end).
/// Column bounds are multiples of 32 (or the whole width).
struct MatrixSlice {
  const TensorView* tensor = nullptr;
  int64_t row_begin = 0;
  int64_t row_end = 0;
  int64_t col_begin = 0;
  int64_t col_end = 0;
};

/// How weights are kept and multiplied.
enum class WeightMode {
  kFast,   // as quantised in the file, repacked for the instruction set; activations as blocks of
           // int8 codes, two each in the few blocks that hold a token's largest values
  kExact,  // expanded to fp32, plain fp32 arithmetic: the oracle
};

namespace cpu {

/// Weights of one linear layer in this device's layout: slices stacked along the output dimension,
/// all of one width. Immutable after pack(); may mix block formats.
class Matrix {
 public:
  Matrix();
  ~Matrix();
  Matrix(Matrix&&) noexcept;
  Matrix& operator=(Matrix&&) noexcept;

  /// Reads only the bytes the slices cover. Fails with kBadModel on a bad shape or column bound.
  static Result<Matrix> pack(std::span<const MatrixSlice> slices, WeightMode mode, Stream& stream);

  [[nodiscard]] int64_t rows() const;   // output features
  [[nodiscard]] int64_t cols() const;   // input features
  [[nodiscard]] int64_t bytes() const;  // private memory held

  struct Impl;
  [[nodiscard]] const Impl& impl() const { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

/// out[t, r] = sum_c w[r, c] * x[t, c] + bias[r]. x is [n_tokens, w.cols()] dense, out is
/// [n_tokens, w.rows()] dense, bias is [w.rows()] or null. Batch-invariant: a token's result is
/// bitwise the same whatever n_tokens, the other tokens and the number of threads are.
void linear(float* out, const Matrix& w, const float* x, const float* bias, int32_t n_tokens,
            Stream& stream);

/// out[t, :] = row `rows[t]` of w expanded to fp32; zeros where rows[t] < 0. out is
/// [n_tokens, w.cols()].
void embedding(float* out, const Matrix& w, std::span<const int32_t> rows, Stream& stream);

}  // namespace cpu
}  // namespace troupe
