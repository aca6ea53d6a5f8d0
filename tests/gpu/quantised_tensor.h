#pragma once

#include "gpu/base/dtype.h"
#include "gpu/base/half.h"
#include "gpu/base/tensor_view.h"
#include "gpu/quant/dequantize.h"

#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace troupe::test {

inline const std::vector<DType>& all_dtypes() {
  static const std::vector<DType> types = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ4_0,
                                           DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,
                                           DType::kQ4_K, DType::kQ6_K};
  return types;
}

/// A matrix with random bytes for codes and random, moderate scales.
class RandomTensor {
 public:
  RandomTensor(DType dtype, int64_t rows, int64_t cols, uint32_t seed) : rng_(seed) {
    const int64_t size = block_bytes(dtype);
    const int64_t blocks = rows * (cols / block_elements(dtype));
    bytes_.resize(static_cast<size_t>(blocks * size));
    for (std::byte& b : bytes_) b = static_cast<std::byte>(rng_() & 0xffU);
    for (int64_t i = 0; i < blocks; ++i) set_scales(dtype, bytes_.data() + i * size);
    view_.name = "random " + std::string(to_string(dtype));
    view_.dtype = dtype;
    view_.shape = {rows, cols};
    view_.data = bytes_.data();
    view_.bytes = static_cast<int64_t>(bytes_.size());
  }
  RandomTensor(const RandomTensor&) = delete;
  RandomTensor& operator=(const RandomTensor&) = delete;

  [[nodiscard]] const TensorView& view() const { return view_; }
  TensorView& view() { return view_; }
  std::vector<std::byte>& bytes() { return bytes_; }

  /// Multiplies every value of a row by `factor`; block formats only.
  void scale_row(int64_t r, float factor) {
    const DType dtype = view_.dtype;
    const bool affine = dtype == DType::kQ4_1 || dtype == DType::kQ5_1 || dtype == DType::kQ4_K;
    const int64_t bytes = view_.row_bytes();
    for (int64_t at = 0; at < bytes; at += block_bytes(dtype)) {
      std::byte* first = bytes_.data() + r * bytes + at + (dtype == DType::kQ6_K ? 208 : 0);
      for (int i = 0; i < (affine ? 2 : 1); ++i) {
        uint16_t bits = 0;
        std::memcpy(&bits, first + 2 * i, sizeof bits);
        put_half(first + 2 * i, float_from_f16(bits) * factor);
      }
    }
  }

  [[nodiscard]] std::vector<float> row(int64_t r, int64_t col_begin, int64_t col_end) const {
    std::vector<float> values(static_cast<size_t>(col_end - col_begin));
    dequantize_row(view_.dtype, view_.data + r * view_.row_bytes(), col_begin, col_end,
                   values.data());
    return values;
  }

 private:
  float uniform() { return static_cast<float>(rng_() % 2001) / 1000.0F - 1.0F; }

  void put_half(std::byte* p, float v) {
    const uint16_t bits = f16_from_float(v);
    std::memcpy(p, &bits, sizeof bits);
  }

  void set_scales(DType dtype, std::byte* block) {
    switch (dtype) {
      case DType::kF32: {
        const float v = uniform();
        std::memcpy(block, &v, sizeof v);
        break;
      }
      case DType::kF16: put_half(block, uniform()); break;
      case DType::kBF16: {
        const float v = uniform();
        uint32_t bits = 0;
        std::memcpy(&bits, &v, sizeof bits);
        const auto high = static_cast<uint16_t>(bits >> 16);
        std::memcpy(block, &high, sizeof high);
        break;
      }
      case DType::kQ4_0:
      case DType::kQ5_0:
      case DType::kQ8_0: put_half(block, uniform() * 0.1F); break;
      case DType::kQ4_1:
      case DType::kQ5_1:
      case DType::kQ4_K:
        put_half(block, uniform() * 0.1F);
        put_half(block + 2, uniform() * 0.5F);
        break;
      case DType::kQ6_K: put_half(block + 208, uniform() * 0.01F); break;
      case DType::kF8E4M3: break;  // its scale is a tensor of its own
    }
  }

  std::mt19937 rng_;
  std::vector<std::byte> bytes_;
  TensorView view_;
};

}  // namespace troupe::test
