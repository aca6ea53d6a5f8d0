#include "gpu/device/stream.h"
#include "gpu/ops/linear_matrix.h"
#include "tests/gpu/quantised_tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <optional>

namespace troupe::cpu {
namespace {

using test::RandomTensor;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Every fifth block of 32 is larger than the rest, as a model's outliers are.
std::vector<float> random_activations(int64_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(n));
  for (size_t i = 0; i < x.size(); ++i) x[i] = normal(rng) * (i / 32 % 5 == 3 ? 10.0F : 1.0F);
  return x;
}

bool is_quantised(DType t) { return block_elements(t) > 1; }

// What the fast path promises to multiply a row with: blocks of 32 in steps of a 127th of the
// largest, and of a 256th of that in blocks whose largest is above twice the average of the row's.
std::vector<double> rounded_activations(const std::vector<float>& x, int64_t cols) {
  std::vector<double> out(x.size());
  const auto width = static_cast<size_t>(cols);
  for (size_t row = 0; row < x.size(); row += width) {
    std::vector<float> largest;
    float total = 0;
    for (size_t b = row; b < row + width; b += 32) {
      float max = 0;
      for (size_t i = b; i < b + 32; ++i) max = std::max(max, std::fabs(x[i]));
      largest.push_back(max);
      total += max;
    }
    const float wide_above = total / static_cast<float>(largest.size()) * 2.0F;
    for (size_t i = row; i < row + width; ++i) {
      const float max = largest[(i - row) / 32];
      if (max == 0) continue;
      const auto fine = static_cast<double>(std::nearbyint(x[i] * (32512.0F / max)));
      const double code = max > wide_above ? fine : 256 * std::floor((fine + 128) / 256);
      out[i] = static_cast<double>(max / 32512.0F) * code;
    }
  }
  return out;
}

struct Expected {
  double value = 0;
  double magnitude = 0;  // sum of |w * x|, what rounding errors are relative to
};

Expected naive_dot(const std::vector<float>& w, const double* x) {
  Expected e;
  for (size_t c = 0; c < w.size(); ++c) {
    e.value += static_cast<double>(w[c]) * x[c];
    e.magnitude += std::fabs(static_cast<double>(w[c]) * x[c]);
  }
  return e;
}

std::unique_ptr<Matrix::Impl> pack_ok(std::span<const MatrixSlice> slices, WeightMode mode,
                                      const LinearKernels& kernels, Stream& stream) {
  auto packed = pack_matrix(slices, mode, kernels, stream);
  EXPECT_TRUE(packed.ok()) << (packed.ok() ? "" : packed.error().message);
  return packed.ok() ? std::move(*packed) : nullptr;
}

// Multiplies and compares every output with the naive sum over the same slices.
void expect_equals_naive(const std::vector<const RandomTensor*>& tensors,
                         const std::vector<MatrixSlice>& slices, WeightMode mode,
                         const LinearKernels& kernels, int32_t n_tokens) {
  Stream stream(1);
  const auto m = pack_ok(slices, mode, kernels, stream);
  ASSERT_NE(m, nullptr);
  const int64_t cols = m->cols;
  const int64_t rows = m->rows;
  const auto x = random_activations(n_tokens * cols, 11);
  const auto bias = random_activations(rows, 12);
  std::vector<float> out(static_cast<size_t>(n_tokens * rows), kNan);
  multiply(out.data(), *m, x.data(), bias.data(), n_tokens, stream);

  const std::vector<double> exact_x(x.begin(), x.end());
  const std::vector<double> rounded_x =
      mode == WeightMode::kFast && cols % 32 == 0 ? rounded_activations(x, cols) : exact_x;
  size_t row = 0;
  for (size_t s = 0; s < slices.size(); ++s) {
    const bool rounded = mode == WeightMode::kFast && is_quantised(slices[s].tensor->dtype);
    for (int64_t r = slices[s].row_begin; r < slices[s].row_end; ++r, ++row) {
      const auto w = tensors[s]->row(r, slices[s].col_begin, slices[s].col_end);
      for (int64_t t = 0; t < n_tokens; ++t) {
        const Expected e = naive_dot(w, (rounded ? rounded_x : exact_x).data() + t * cols);
        const double want = e.value + static_cast<double>(bias[row]);
        const auto got = static_cast<double>(out[static_cast<size_t>(t * rows) + row]);
        // An affine sum holds scale * code and offset apart, each larger than the weight; 1e-5 of
        // the weights' own magnitudes leaves room for that.
        EXPECT_NEAR(got, want, 1e-5 * (e.magnitude + std::fabs(want) + 1))
            << kernels.name << ' ' << to_string(slices[s].tensor->dtype) << " row " << row << " of "
            << rows << ", cols " << cols << ", token " << t;
      }
    }
  }
}

class Kernels : public testing::TestWithParam<const LinearKernels*> {
 protected:
  const LinearKernels& kernels() const { return *GetParam(); }
};

TEST_P(Kernels, EveryFormatAndOddShapesEqualNaive) {
  for (const DType dtype : test::all_dtypes()) {
    for (const int64_t rows : {1, 15, 16, 17, 33}) {
      for (const int64_t cols : {32, 96, 256, 576, 1536}) {
        if (cols % block_elements(dtype) != 0) continue;
        const RandomTensor tensor(dtype, rows, cols, static_cast<uint32_t>(rows + cols));
        for (const WeightMode mode : {WeightMode::kFast, WeightMode::kExact}) {
          expect_equals_naive({&tensor}, {{&tensor.view(), 0, rows, 0, cols}}, mode, kernels(),
                              cols == 256 ? 5 : 1);
        }
      }
    }
  }
}

TEST_P(Kernels, PlainFormatsTakeAnyWidth) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const int64_t cols : {1, 7, 33}) {
      const RandomTensor tensor(dtype, 18, cols, 4);
      for (const WeightMode mode : {WeightMode::kFast, WeightMode::kExact}) {
        expect_equals_naive({&tensor}, {{&tensor.view(), 0, 18, 0, cols}}, mode, kernels(), 11);
      }
    }
  }
}

TEST_P(Kernels, SlicesMayCutRowsAndSuperBlocks) {
  for (const DType dtype : test::all_dtypes()) {
    const RandomTensor tensor(dtype, 70, 768, 6);
    for (const auto& [col_begin, col_end] :
         {std::pair{0, 32}, {32, 64}, {224, 288}, {96, 768}, {736, 768}}) {
      for (const WeightMode mode : {WeightMode::kFast, WeightMode::kExact}) {
        expect_equals_naive({&tensor}, {{&tensor.view(), 19, 58, col_begin, col_end}}, mode,
                            kernels(), 3);
      }
    }
  }
}

TEST_P(Kernels, StackedSlicesMayMixFormats) {
  const RandomTensor a(DType::kQ4_K, 20, 512, 1);
  const RandomTensor b(DType::kQ6_K, 33, 512, 2);
  const RandomTensor c(DType::kF16, 5, 512, 3);
  const RandomTensor d(DType::kQ4_1, 64, 512, 4);
  expect_equals_naive({&a, &b, &c, &d, &a},
                      {{&a.view(), 3, 20, 64, 256},
                       {&b.view(), 0, 33, 96, 288},
                       {&c.view(), 1, 5, 320, 512},
                       {&d.view(), 16, 48, 0, 192},
                       {&a.view(), 0, 1, 320, 512}},
                      WeightMode::kFast, kernels(), 70);
}

// The same token alone, in batches of every size and at every place, with one thread and with
// three.
TEST_P(Kernels, ResultDoesNotDependOnTheBatch) {
  for (const DType dtype : test::all_dtypes()) {
    for (const WeightMode mode : {WeightMode::kFast, WeightMode::kExact}) {
      const int64_t rows = 35;
      const int64_t cols = 256;
      const RandomTensor tensor(dtype, rows, cols, 8);
      const MatrixSlice slice{&tensor.view(), 0, rows, 0, cols};
      Stream one(1);
      Stream three(3);
      const auto m = pack_ok({&slice, 1}, mode, kernels(), three);
      ASSERT_NE(m, nullptr);
      const int32_t max_tokens = 130;
      const auto x = random_activations(max_tokens * cols, 9);
      std::vector<float> alone(static_cast<size_t>(max_tokens * rows));
      for (int64_t t = 0; t < max_tokens; ++t) {
        multiply(alone.data() + t * rows, *m, x.data() + t * cols, nullptr, 1, one);
      }
      std::vector<int32_t> sizes = {63, 64, 65, max_tokens};
      for (int32_t n = 2; n <= 40; ++n) sizes.push_back(n);
      for (const int32_t n : sizes) {
        std::vector<float> out(static_cast<size_t>(n * rows), kNan);
        multiply(out.data(), *m, x.data(), nullptr, n, n % 2 == 0 ? one : three);
        ASSERT_EQ(std::memcmp(out.data(), alone.data(), out.size() * sizeof(float)), 0)
            << kernels().name << ' ' << to_string(dtype) << ", " << n << " tokens";
      }
    }
  }
}

TEST_P(Kernels, ExtremeActivationsStayWithTheirToken) {
  for (const DType dtype : test::all_dtypes()) {
    const int64_t rows = 17;
    const int64_t cols = 256;
    const RandomTensor tensor(dtype, rows, cols, 10);
    const MatrixSlice slice{&tensor.view(), 0, rows, 0, cols};
    Stream stream(1);
    const auto m = pack_ok({&slice, 1}, WeightMode::kFast, kernels(), stream);
    ASSERT_NE(m, nullptr);
    auto x = random_activations(6 * cols, 11);
    std::vector<float> normal(static_cast<size_t>(rows));
    multiply(normal.data(), *m, x.data() + 5 * cols, nullptr, 1, stream);
    std::fill_n(x.begin(), cols, 0.0F);
    x[static_cast<size_t>(cols + 40)] = kNan;
    x[static_cast<size_t>(2 * cols + 3)] = -kInf;
    std::fill_n(x.begin() + 3 * cols, cols, std::numeric_limits<float>::denorm_min());
    std::fill_n(x.begin() + 4 * cols, cols, 1e37F);
    std::vector<float> out(static_cast<size_t>(6 * rows));
    multiply(out.data(), *m, x.data(), nullptr, 6, stream);
    for (int64_t r = 0; r < rows; ++r) {
      const auto at = [&](int64_t t) { return out[static_cast<size_t>(t * rows + r)]; };
      EXPECT_EQ(at(0), 0.0F);
      EXPECT_TRUE(std::isnan(at(1)));
      EXPECT_FALSE(std::isfinite(at(2)));
      EXPECT_NEAR(at(3), 0.0F, 1e-30F);
      EXPECT_EQ(at(5), normal[static_cast<size_t>(r)]);
    }
  }
}

// Largest codes and activations with one sign: nothing in between may saturate or wrap.
TEST_P(Kernels, LargestCodesDoNotOverflow) {
  for (const DType dtype : test::all_dtypes()) {
    if (!is_quantised(dtype)) continue;
    for (const unsigned code : {0x00U, 0x7fU, 0x80U, 0xffU}) {
      RandomTensor tensor(dtype, 16, 256, 13);
      for (std::byte& b : tensor.bytes()) b = static_cast<std::byte>(code);
      const int64_t size = block_bytes(dtype);
      for (size_t at = 0; at < tensor.bytes().size(); at += static_cast<size_t>(size)) {
        std::byte* block = tensor.bytes().data() + at;
        const uint16_t one = 0x3c00;
        std::memcpy(dtype == DType::kQ6_K ? block + 208 : block, &one, 2);
        if (dtype != DType::kQ6_K && dtype != DType::kQ8_0) std::memcpy(block + 2, &one, 2);
      }
      const MatrixSlice slice{&tensor.view(), 0, 16, 0, 256};
      Stream stream(1);
      const auto m = pack_ok({&slice, 1}, WeightMode::kFast, kernels(), stream);
      ASSERT_NE(m, nullptr);
      for (const float sign : {1.0F, -1.0F}) {
        // Codes 127 all over; then one wide block with the ends of the fine code's range.
        std::vector<float> narrow(256, sign * 127.0F);
        std::vector<float> wide(256, 0.0F);
        for (size_t i = 0; i < 32; ++i)
          wide[i] = sign * (i == 0 ? 127.0F : i < 16 ? 126.5F : 0.496F);
        for (const std::vector<float>& x : {narrow, wide}) {
          std::vector<float> out(16);
          multiply(out.data(), *m, x.data(), nullptr, 1, stream);
          const auto w = tensor.row(0, 0, 256);
          const std::vector<double> rounded = rounded_activations(x, 256);
          const Expected e = naive_dot(w, rounded.data());
          EXPECT_NEAR(static_cast<double>(out[0]), e.value, 1e-6 * e.magnitude)
              << kernels().name << ' ' << to_string(dtype) << ' ' << code;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Linear, Kernels, testing::ValuesIn(available_kernels()),
                         [](const auto& param) { return std::string(param.param->name); });

TEST(LinearExact, IsTheSameOnEveryInstructionSet) {
  const RandomTensor tensor(DType::kQ4_1, 50, 576, 14);
  const MatrixSlice slice{&tensor.view(), 0, 50, 0, 576};
  const auto x = random_activations(3 * 576, 15);
  Stream stream(1);
  std::optional<std::vector<float>> first;
  for (const LinearKernels* kernels : available_kernels()) {
    const auto m = pack_ok({&slice, 1}, WeightMode::kExact, *kernels, stream);
    std::vector<float> out(3 * 50);
    multiply(out.data(), *m, x.data(), nullptr, 3, stream);
    if (!first) first = out;
    EXPECT_EQ(out, *first) << kernels->name;
  }
}

TEST(Embedding, RowsEqualTheFileExactly) {
  for (const DType dtype : test::all_dtypes()) {
    const RandomTensor a(dtype, 37, 256, 16);
    const RandomTensor b(DType::kQ8_0, 20, 256, 17);
    const std::vector<MatrixSlice> slices = {{&a.view(), 2, 37, 0, 256},
                                             {&b.view(), 0, 20, 0, 256}};
    for (const WeightMode mode : {WeightMode::kFast, WeightMode::kExact}) {
      Stream stream(2);
      auto m = Matrix::pack(slices, mode, stream);
      ASSERT_TRUE(m.ok());
      EXPECT_EQ(m->rows(), 55);
      EXPECT_EQ(m->cols(), 256);
      EXPECT_GT(m->bytes(), 0);
      const std::vector<int32_t> rows = {0, 34, 35, 54, -1, 16, 16};
      std::vector<float> out(rows.size() * 256, kNan);
      embedding(out.data(), *m, rows, stream);
      for (size_t i = 0; i < rows.size(); ++i) {
        std::vector<float> want(256, 0.0F);
        if (rows[i] >= 35) want = b.row(rows[i] - 35, 0, 256);
        if (rows[i] >= 0 && rows[i] < 35) want = a.row(rows[i] + 2, 0, 256);
        EXPECT_EQ(std::vector<float>(out.begin() + static_cast<int64_t>(i) * 256,
                                     out.begin() + static_cast<int64_t>(i + 1) * 256),
                  want)
            << to_string(dtype);
      }
    }
  }
}

TEST(MatrixPack, RefusesBadShapesAndNamesTheTensor) {
  Stream stream(1);
  RandomTensor t(DType::kQ4_1, 8, 128, 18);
  const auto error_of = [&](std::vector<MatrixSlice> slices) {
    const auto m = Matrix::pack(slices, WeightMode::kFast, stream);
    if (m.ok()) return std::string("no error");
    EXPECT_EQ(m.error().code, ErrorCode::kBadModel);
    return m.error().message;
  };
  const auto refused = testing::HasSubstr("random Q4_1");
  const TensorView* v = &t.view();
  EXPECT_NE(error_of({}), "no error");
  EXPECT_NE(error_of({{nullptr, 0, 8, 0, 128}}), "no error");
  EXPECT_THAT(error_of({{v, 0, 9, 0, 128}}), refused);
  EXPECT_THAT(error_of({{v, -1, 8, 0, 128}}), refused);
  EXPECT_THAT(error_of({{v, 4, 4, 0, 128}}), refused);
  EXPECT_THAT(error_of({{v, 0, 8, 0, 160}}), refused);
  EXPECT_THAT(error_of({{v, 0, 8, 16, 128}}), refused);
  EXPECT_THAT(error_of({{v, 0, 8, 0, 40}}), refused);
  EXPECT_THAT(error_of({{v, 0, 8, 64, 32}}), refused);
  EXPECT_THAT(error_of({{v, 0, 8, 0, 128}, {v, 0, 8, 0, 64}}), refused);
  const TensorView good = t.view();
  t.view().bytes -= 1;
  EXPECT_THAT(error_of({{v, 0, 8, 0, 128}}), refused);
  t.view() = good;
  t.view().shape = {8, 120};
  EXPECT_THAT(error_of({{v, 0, 8, 0, 96}}), refused);
  t.view().shape = {1024};
  EXPECT_THAT(error_of({{v, 0, 1, 0, 1024}}), refused);
  t.view().shape = {int64_t{1} << 62, int64_t{1} << 62};
  EXPECT_THAT(error_of({{v, 0, 8, 0, 128}}), refused);
  t.view().shape = {0, 128};
  EXPECT_THAT(error_of({{v, 0, 0, 0, 128}}), refused);
  t.view() = good;
  t.view().data = nullptr;
  EXPECT_THAT(error_of({{v, 0, 8, 0, 128}}), refused);
}

}  // namespace
}  // namespace troupe::cpu
