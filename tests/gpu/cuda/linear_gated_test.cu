#include "gpu/cuda/linear_gated.h"

#include "gpu/cuda/linear_shape.h"
#include "gpu/cuda/quantize.h"
#include "tests/support/cuda_device.h"

#include <cuda_fp8.h>

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace troupe::cuda {
namespace {

using test::CudaTest;
using test::download;

// A bf16 result of sums in fp32; fp8 sums are cut by the tensor cores.
constexpr double kBf16Tolerance = 4e-3;
constexpr double kFp8Tolerance = 5e-3;
constexpr int32_t kSpare = 3;  // rows behind the result that must stay untouched

__device__ double value_of(const void* data, WeightFormat format, int64_t i) {
  if (format == WeightFormat::kFp8)
    return static_cast<double>(static_cast<float>(static_cast<const __nv_fp8_e4m3*>(data)[i]));
  return static_cast<double>(__bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]));
}

/// One thread a result, in double precision.
__global__ void oracle_kernel(double* out, Weight w, Activation x, int64_t width, int64_t n) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const int64_t token = i / width;
  const int64_t row = i % width;
  double product[2] = {};
  for (int half = 0; half < 2; ++half) {
    const int64_t r = row + half * width;
    for (int64_t c = 0; c < w.cols; ++c)
      product[half] += value_of(w.data, w.format, r * w.cols + c) *
                       value_of(x.data, w.format, token * w.cols + c);
    if (w.channel_scale != nullptr)
      product[half] *=
          static_cast<double>(w.channel_scale[r]) * static_cast<double>(x.token_scale[token]);
  }
  out[i] = product[0] / (1.0 + exp(-product[0])) * product[1];
}

unsigned blocks(int64_t n) { return static_cast<unsigned>((n + 255) / 256); }

struct Shape {
  int32_t n_tokens;
  int64_t cols;
  int64_t width;
};

class Problem {
 public:
  Problem(const Shape& s, WeightFormat format)
      : shape(s),
        format_(format),
        weights_(static_cast<size_t>(2 * s.width * s.cols)),
        tokens_(static_cast<size_t>(s.n_tokens * s.cols)),
        out_(static_cast<size_t>((s.n_tokens + kSpare) * s.width)) {
    // Gates of both signs, some far out.
    fill_normal(weights_.data(), 2 * s.width * s.cols, 3.0F / std::sqrt(static_cast<float>(s.cols)),
                7, nullptr);
    fill_normal(tokens_.data(), s.n_tokens * s.cols, 1.0F, 8, nullptr);
    if (format == WeightFormat::kFp8) {
      w_codes_ = DeviceBuffer<uint8_t>(weights_.size());
      w_scale_ = DeviceBuffer<float>(static_cast<size_t>(2 * s.width));
      x_codes_ = DeviceBuffer<uint8_t>(tokens_.size());
      x_scale_ = DeviceBuffer<float>(static_cast<size_t>(s.n_tokens));
      quantize_weights(w_codes_.data(), w_scale_.data(), weights_.data(), 2 * s.width, s.cols,
                       nullptr);
      quantize_weights(x_codes_.data(), x_scale_.data(), tokens_.data(), s.n_tokens, s.cols,
                       nullptr);
    }
  }
  [[nodiscard]] Weight weight() const {
    const bool fp8 = format_ == WeightFormat::kFp8;
    return {format_, fp8 ? static_cast<const void*>(w_codes_.data()) : weights_.data(),
            fp8 ? w_scale_.data() : nullptr, 2 * shape.width, shape.cols};
  }
  [[nodiscard]] Activation tokens() const {
    const bool fp8 = format_ == WeightFormat::kFp8;
    return {fp8 ? static_cast<const void*>(x_codes_.data()) : tokens_.data(),
            fp8 ? x_scale_.data() : nullptr};
  }
  /// The bits of the first n tokens' results and of the rows behind them.
  std::vector<uint16_t> run(GatedLinear& gated, int32_t n_tokens) {
    TROUPE_CUDA(cudaMemset(out_.data(), 0xff, out_.bytes()));
    gated.run(out_.data(), weight(), tokens(), n_tokens, nullptr);
    TROUPE_CUDA(cudaDeviceSynchronize());
    const auto values =
        download(out_.data(), static_cast<size_t>((n_tokens + kSpare) * shape.width));
    std::vector<uint16_t> bits(values.size());
    std::memcpy(bits.data(), values.data(), bits.size() * 2);
    return bits;
  }
  [[nodiscard]] std::vector<double> oracle() const {
    const int64_t n = shape.n_tokens * shape.width;
    DeviceBuffer<double> out(static_cast<size_t>(n));
    oracle_kernel<<<blocks(n), 256>>>(out.data(), weight(), tokens(), shape.width, n);
    TROUPE_CUDA(cudaGetLastError());
    return download(out.data(), out.size());
  }
  Shape shape;

 private:
  WeightFormat format_;
  DeviceBuffer<__nv_bfloat16> weights_;
  DeviceBuffer<__nv_bfloat16> tokens_;
  DeviceBuffer<__nv_bfloat16> out_;
  DeviceBuffer<uint8_t> w_codes_, x_codes_;
  DeviceBuffer<float> w_scale_, x_scale_;
};

float to_float(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float f = 0.0F;
  std::memcpy(&f, &wide, sizeof f);
  return f;
}

class CudaGatedLinear : public CudaTest {};

// One box and many of the input dimension, part of a tile, several tiles a cluster, more tokens
// than are worked on together, widths that end inside a tile.
const Shape kShapes[] = {{1, 128, 16},       {64, 128, 128},     {127, 256, 128},
                         {129, 384, 144},    {96, 512, 1792},    {256, 512, 14336},
                         {200, 1024, 12288}, {128, 2048, 14336}, {300, 4096, 336},
                         {2048, 512, 1808},  {2500, 640, 912},   {1024, 1024, 4096}};

TEST_F(CudaGatedLinear, EqualsTheOracle) {
  GatedLinear gated;
  for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8}) {
    for (const Shape& s : kShapes) {
      Problem problem(s, format);
      const std::vector<uint16_t> bits = problem.run(gated, s.n_tokens);
      const std::vector<double> expected = problem.oracle();
      double error = 0.0;
      double norm = 0.0;
      for (size_t i = 0; i < expected.size(); ++i) {
        const double e = static_cast<double>(to_float(bits[i])) - expected[i];
        error += e * e;
        norm += expected[i] * expected[i];
      }
      const bool fp8 = format == WeightFormat::kFp8;
      const std::string name = std::to_string(s.n_tokens) + " x " + std::to_string(s.cols) +
                               " -> " + std::to_string(s.width) + (fp8 ? " fp8" : " bf16");
      EXPECT_LE(std::sqrt(error / norm), fp8 ? kFp8Tolerance : kBf16Tolerance) << name;
      for (size_t i = expected.size(); i < bits.size(); ++i)
        ASSERT_EQ(bits[i], 0xffff) << name << ": wrote behind the result";
    }
  }
}

TEST_F(CudaGatedLinear, TokensDoNotDependOnEachOther) {
  GatedLinear gated;
  for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8}) {
    Problem problem({1500, 512, 1040}, format);
    const std::vector<uint16_t> all = problem.run(gated, 1500);
    EXPECT_EQ(problem.run(gated, 1500), all);
    const std::vector<uint16_t> some = problem.run(gated, 700);
    EXPECT_TRUE(std::equal(some.begin(), some.begin() + 700 * 1040, all.begin()));
  }
}

TEST_F(CudaGatedLinear, SuitsManyTokensOfWholeTiles) {
  const GatedLinear gated;
  const auto suits = [&](int64_t width, int64_t cols, int32_t n) {
    return gated.suits({WeightFormat::kBf16, nullptr, nullptr, 2 * width, cols}, n);
  };
  EXPECT_TRUE(suits(14336, 4096, 2048));
  EXPECT_TRUE(suits(14336, 4096, 128));
  EXPECT_TRUE(suits(14336, 4096, 256));
  EXPECT_FALSE(suits(14336, 4096, 64));
  EXPECT_FALSE(suits(14336, 4096, 160));        // a third of the work would be for nothing
  EXPECT_FALSE(suits(14336, 4096 + 32, 2048));  // the input does not end with a box
  EXPECT_FALSE(suits(1000, 4096, 2048));        // most clusters would idle
}

}  // namespace
}  // namespace troupe::cuda
