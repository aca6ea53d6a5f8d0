#include "gpu/cuda/linear.h"
#include "gpu/cuda/linear_stream.h"
#include "gpu/cuda/linear_wide.h"
#include "gpu/cuda/quantize.h"
#include "tests/support/cuda_device.h"
#include "tests/support/temp_dir.h"

#include <cuda_fp8.h>

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace troupe::cuda {
namespace {

using test::CudaTest;
using test::download;

constexpr double kBf16Tolerance = 4e-3;
constexpr double kFp8Tolerance = 5e-3;
// fp32 sums of up to 14,336 products: the tensor cores cut, not round, what they add.
constexpr double kF32Tolerance = 1e-4;
const std::vector<int32_t> kTokens = {1,  2,  3,  4,  5,  8,   15,  16,  17,  31,
                                      32, 33, 63, 64, 65, 128, 200, 256, 512, 2048};

__device__ float value_of(const __nv_bfloat16* p) { return __bfloat162float(*p); }
__device__ float value_of(const __nv_fp8_e4m3* p) { return static_cast<float>(*p); }

/// One thread an output, added up in double precision.
template <class T>
__global__ void naive_kernel(double* out, const T* w, const T* x, int64_t rows, int64_t cols,
                             int64_t n) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= n) return;
  double sum = 0.0;
  for (int64_t c = 0; c < cols; ++c) {
    sum += static_cast<double>(value_of(w + i % rows * cols + c)) *
           static_cast<double>(value_of(x + i / rows * cols + c));
  }
  out[i] = sum;
}

/// sums[0] += (out - ref)^2, sums[1] += ref^2; a NaN in `out` stays one.
template <class T>
__global__ void error_kernel(double* sums, const T* out, const double* reference, int64_t n) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const double error = static_cast<double>(static_cast<float>(out[i])) - reference[i];
  atomicAdd(&sums[0], error * error);
  atomicAdd(&sums[1], reference[i] * reference[i]);
}

unsigned blocks(int64_t n) { return static_cast<unsigned>((n + 255) / 256); }

/// Random weights and tokens of a shape and their product by the oracle.
class Problem {
 public:
  Problem(int64_t rows, int64_t cols, int32_t n_tokens, WeightFormat format, bool f32_out = false)
      : shape{rows, cols, n_tokens, format, f32_out},
        weights_(bf16_count(rows * cols)),
        tokens_(bf16_count(n_tokens * cols)),
        reference_(static_cast<size_t>(rows * n_tokens)),
        out_(static_cast<size_t>(rows * n_tokens) * 4) {
    fill_normal(weights_.data(), rows * cols, 0.02F, 7, nullptr);
    fill_normal(tokens_.data(), n_tokens * cols, 1.0F, 8, nullptr);
    if (format == WeightFormat::kFp8) {
      quantise(weights_, w_codes_, w_scale_, rows, cols);
      quantise(tokens_, x_codes_, x_scale_, n_tokens, cols);
      naive(reinterpret_cast<const __nv_fp8_e4m3*>(w_codes_.data()),
            reinterpret_cast<const __nv_fp8_e4m3*>(x_codes_.data()));
    } else {
      naive(weights_.data(), tokens_.data());
    }
  }

  [[nodiscard]] Weight weight() const {
    if (shape.format == WeightFormat::kBf16) {
      return {shape.format, weights_.data(), nullptr, shape.rows, shape.cols};
    }
    return {shape.format, w_codes_.data(), w_scale_.data(), shape.rows, shape.cols};
  }
  [[nodiscard]] Activation tokens() const {
    if (shape.format == WeightFormat::kBf16) return {tokens_.data(), nullptr};
    return {x_codes_.data(), x_scale_.data()};
  }
  [[nodiscard]] GemmCall call() const { return {out_.data(), weight().data, tokens().data}; }
  [[nodiscard]] __nv_bfloat16* out() const { return reinterpret_cast<__nv_bfloat16*>(out_.data()); }
  [[nodiscard]] float* out_f32() const { return reinterpret_cast<float*>(out_.data()); }
  [[nodiscard]] size_t out_bytes() const {
    return reference_.size() * (shape.f32_out ? sizeof(float) : sizeof(__nv_bfloat16));
  }

  void poison() { TROUPE_CUDA(cudaMemset(out_.data(), 0xff, out_.bytes())); }
  /// ||out - reference|| / ||reference||, NaN when any output is.
  [[nodiscard]] double error() const {
    DeviceBuffer<double> sums(2);
    TROUPE_CUDA(cudaMemset(sums.data(), 0, sums.bytes()));
    const auto n = static_cast<int64_t>(reference_.size());
    if (shape.f32_out) {
      error_kernel<<<blocks(n), 256>>>(sums.data(), out_f32(), reference_.data(), n);
    } else {
      error_kernel<<<blocks(n), 256>>>(sums.data(), out(), reference_.data(), n);
    }
    TROUPE_CUDA(cudaGetLastError());
    const std::vector<double> s = download(sums.data(), 2);
    return std::sqrt(s[0] / s[1]);
  }
  /// The bits of the values that follow a bf16 output.
  [[nodiscard]] std::vector<uint16_t> behind() const {
    return download(reinterpret_cast<const uint16_t*>(out_.data()) + reference_.size(),
                    std::min<size_t>(reference_.size(), 1024));
  }
  /// The bytes of the output.
  [[nodiscard]] std::vector<std::byte> bytes() const { return download(out_.data(), out_bytes()); }

  [[nodiscard]] double tolerance() const {
    return shape.format == WeightFormat::kFp8 ? kFp8Tolerance : kBf16Tolerance;
  }
  [[nodiscard]] std::string name() const {
    return std::to_string(shape.cols) + "->" + std::to_string(shape.rows) +
           (shape.format == WeightFormat::kFp8 ? " fp8" : " bf16") + (shape.f32_out ? "/f32" : "") +
           " x " + std::to_string(shape.n_tokens);
  }

  GemmShape shape;

 private:
  static size_t bf16_count(int64_t n) { return static_cast<size_t>(n); }
  static void quantise(const DeviceBuffer<__nv_bfloat16>& in, DeviceBuffer<uint8_t>& codes,
                       DeviceBuffer<float>& scale, int64_t rows, int64_t cols) {
    codes = DeviceBuffer<uint8_t>(static_cast<size_t>(rows * cols));
    scale = DeviceBuffer<float>(static_cast<size_t>(rows));
    quantize_weights(codes.data(), scale.data(), in.data(), rows, cols, nullptr);
  }
  template <class T>
  void naive(const T* w, const T* x) {
    const auto n = static_cast<int64_t>(reference_.size());
    naive_kernel<<<blocks(n), 256>>>(reference_.data(), w, x, shape.rows, shape.cols, n);
    TROUPE_CUDA(cudaGetLastError());
  }

  DeviceBuffer<__nv_bfloat16> weights_, tokens_;
  DeviceBuffer<uint8_t> w_codes_, x_codes_;
  DeviceBuffer<float> w_scale_, x_scale_;
  DeviceBuffer<double> reference_;
  DeviceBuffer<std::byte> out_;
};

class LinearTest : public CudaTest {};

/// Layers of small and of odd models, and one of Llama-3-8B.
struct Layer {
  int64_t cols;
  int64_t rows;
};
const std::vector<Layer> kLayers = {{576, 960},  {576, 576},  {576, 3072}, {1536, 576},
                                    {896, 1152}, {64, 72},    {96, 64},    {4096, 6144},
                                    {2048, 136}, {14336, 512}};

TEST_F(LinearTest, MatchesTheOracleForAllTokenCounts) {
  Linear linear;
  for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8}) {
    for (const Layer& layer : kLayers) {
      for (const int32_t m : kTokens) {
        Problem p(layer.rows, layer.cols, m, format);
        p.poison();
        const Product out = linear.run(p.out(), p.weight(), p.tokens(), m, nullptr);
        EXPECT_EQ(out.data, p.out());
        EXPECT_EQ(out.channel_scale, p.weight().channel_scale);
        EXPECT_EQ(out.token_scale, p.tokens().token_scale);
        EXPECT_LE(p.error(), p.tolerance()) << p.name();
      }
    }
  }
}

TEST_F(LinearTest, LogitsAreFp32) {
  Linear linear;
  for (const int32_t m : {1, 2, 16, 17, 64, 65, 256}) {
    for (const Layer& layer : {Layer{576, 49152}, Layer{512, 1000}}) {
      Problem p(layer.rows, layer.cols, m, WeightFormat::kBf16, true);
      p.poison();
      linear.run_f32(p.out_f32(), p.weight(), p.tokens(), m, nullptr);
      EXPECT_LE(p.error(), kF32Tolerance) << p.name();
    }
  }
}

TEST_F(LinearTest, WidthsThatNoTensorCoreLikes) {
  Linear linear;
  for (const Layer& layer : {Layer{9, 7}, Layer{100, 33}, Layer{1, 1}, Layer{577, 65}}) {
    for (const int32_t m : {1, 7, 65}) {
      Problem p(layer.rows, layer.cols, m, WeightFormat::kBf16);
      p.poison();
      linear.run(p.out(), p.weight(), p.tokens(), m, nullptr);
      EXPECT_LE(p.error(), kBf16Tolerance) << p.name();
    }
  }
}

TEST_F(LinearTest, EmptySharesGiveZerosOrNothing) {
  Linear linear;
  Problem p(64, 64, 4, WeightFormat::kBf16);
  p.poison();
  Weight w = p.weight();
  w.cols = 0;
  linear.run(p.out(), w, p.tokens(), 4, nullptr);
  for (const std::byte b : p.bytes()) ASSERT_EQ(b, std::byte{0});
  p.poison();
  linear.run(p.out(), p.weight(), p.tokens(), 0, nullptr);
  for (const std::byte b : p.bytes()) ASSERT_EQ(b, std::byte{0xff});
}

/// Every own kernel in every cut, on these layers.
void expect_stream_kernels(const std::vector<Layer>& layers, const std::vector<int32_t>& tokens) {
  StreamGemm gemm;
  if (!gemm.available()) GTEST_SKIP() << "needs compute capability 9.0";
  for (const bool f32_out : {false, true}) {
    for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8}) {
      if (f32_out && format == WeightFormat::kFp8) continue;
      for (const Layer& layer : layers) {
        for (const int32_t m : tokens) {
          Problem p(layer.rows, layer.cols, m, format, f32_out);
          for (const StreamPlan& plan : gemm.plans(p.shape)) {
            p.poison();
            gemm.run(plan, p.shape, p.call(), nullptr);
            const StreamVariant& v = plan.cut;
            EXPECT_LE(p.error(), f32_out ? kF32Tolerance : p.tolerance())
                << p.name() << " by " << v.tokens << " x " << v.rows << " cluster " << v.cluster
                << " ring " << v.boxes << " x " << v.stages;
          }
        }
      }
    }
  }
}

TEST_F(LinearTest, EveryStreamKernelMatchesTheOracle) {
  expect_stream_kernels(kLayers, {1, 5, 8, 16, 17, 33, 64, 65, 128, 200});
}

/// Small enough to run under a sanitizer; rings wrap, tiles and clusters are ragged.
TEST_F(LinearTest, StreamKernelsOnATinyLayer) { expect_stream_kernels({{2352, 136}}, {13, 70}); }

constexpr size_t kWideWorkspace = size_t{64} << 20;

/// Every cut of the wide kernel on these layers: the oracle, nothing behind the result, and the
/// same bits again.
void expect_wide_kernels(const std::vector<Layer>& layers, const std::vector<int32_t>& tokens) {
  WideGemm gemm;
  if (!gemm.available()) GTEST_SKIP() << "needs compute capability 9.0";
  const DeviceBuffer<std::byte> workspace(kWideWorkspace);
  const std::span<std::byte> space(workspace.data(), workspace.size());
  for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8}) {
    for (const Layer& layer : layers) {
      for (const int32_t m : tokens) {
        Problem p(layer.rows, layer.cols, m, format);
        const auto plans = gemm.plans(p.shape, space.size());
        ASSERT_FALSE(plans.empty()) << p.name();
        for (const WideVariant& v : plans) {
          const std::string name = p.name() + " by " + std::to_string(v.width) + " split " +
                                   std::to_string(v.split) + (v.shares_weights != 0 ? " w" : " x");
          p.poison();
          gemm.run(v, p.shape, p.call(), space, nullptr);
          EXPECT_LE(p.error(), p.tolerance()) << name;
          for (const uint16_t bits : p.behind()) ASSERT_EQ(bits, 0xffff) << name;
          const std::vector<std::byte> first = p.bytes();
          p.poison();
          gemm.run(v, p.shape, p.call(), space, nullptr);
          EXPECT_EQ(first, p.bytes()) << name;
        }
      }
    }
  }
}

TEST_F(LinearTest, EveryWideKernelMatchesTheOracle) {
  expect_wide_kernels({{640, 960}, {512, 136}, {4096, 6144}, {7168, 512}},
                      {65, 128, 129, 200, 300});
  expect_wide_kernels({{14336, 4096}}, {256});
}

/// Small enough to run under a sanitizer; rings wrap, tiles are ragged.
TEST_F(LinearTest, WideKernelsOnATinyLayer) { expect_wide_kernels({{2048, 136}}, {70, 140}); }

TEST_F(LinearTest, WideKernelsAreForManyTokensOfWholePieces) {
  const WideGemm gemm;
  const auto n = [&](int64_t rows, int64_t cols, int32_t tokens, bool f32_out) {
    return gemm.plans({rows, cols, tokens, WeightFormat::kBf16, f32_out}, kWideWorkspace).size();
  };
  EXPECT_EQ(n(4096, 4096, 64, false), 0U);
  EXPECT_EQ(n(4096, 4096, 128, true), 0U);
  EXPECT_EQ(n(4100, 4096, 128, false), 0U);
  EXPECT_EQ(n(4096, 4090, 128, false), 0U);
}

TEST_F(LinearTest, IsDeterministic) {
  Linear linear;
  for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8}) {
    for (const int32_t m : {1, 16, 48, 64, 128}) {
      Problem p(6144, 4096, m, format);
      Problem other(576, 1536, m, format);
      std::vector<std::byte> first;
      for (int i = 0; i < 20; ++i) {
        p.poison();
        linear.run(p.out(), p.weight(), p.tokens(), m, nullptr);
        linear.run(other.out(), other.weight(), other.tokens(), m, nullptr);
        const std::vector<std::byte> bytes = p.bytes();
        if (i == 0) first = bytes;
        ASSERT_EQ(std::memcmp(first.data(), bytes.data(), bytes.size()), 0) << p.name();
      }
    }
  }
}

TEST_F(LinearTest, OwnKernelsAreDeterministic) {
  StreamGemm gemm;
  if (!gemm.available()) GTEST_SKIP() << "needs compute capability 9.0";
  for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8}) {
    for (const int32_t m : {1, 16, 64}) {
      Problem p(4096, 2048, m, format);
      for (const StreamPlan& plan : gemm.plans(p.shape)) {
        std::vector<std::byte> first;
        for (int i = 0; i < 5; ++i) {
          p.poison();
          gemm.run(plan, p.shape, p.call(), nullptr);
          const std::vector<std::byte> bytes = p.bytes();
          if (i == 0) first = bytes;
          ASSERT_EQ(std::memcmp(first.data(), bytes.data(), bytes.size()), 0) << p.name();
        }
      }
    }
  }
}

/// A chain of layers, each reading what the one before wrote: the overlap of consecutive kernels
/// must not let one read too early.
void expect_replay_equals_eager(WeightFormat format, int32_t m, bool own) {
  constexpr int64_t kWidth = 2048;
  constexpr int kDepth = 12;
  Linear linear;
  StreamGemm gemm;
  if (own && !gemm.available()) return;
  Problem p(kWidth, kWidth, m, format);
  const std::vector<StreamPlan> plans = gemm.plans(p.shape);
  WideGemm wide;
  const DeviceBuffer<std::byte> workspace(kWideWorkspace);
  const std::vector<WideVariant> wide_plans = wide.plans(p.shape, workspace.size());
  const auto n = static_cast<size_t>(kWidth * m);
  DeviceBuffer<__nv_bfloat16> a(n), b(n);
  DeviceBuffer<uint8_t> codes(n);
  DeviceBuffer<float> scale(static_cast<size_t>(m));
  const auto step = [&](cudaStream_t stream, bool eager) {
    Activation x = p.tokens();
    for (int i = 0; i < kDepth; ++i) {
      __nv_bfloat16* out = i % 2 == 0 ? a.data() : b.data();
      if (own) {
        const auto at = static_cast<size_t>(i);
        const GemmCall call = {out, p.weight().data, x.data};
        if (!wide_plans.empty() && i % 3 != 0)
          wide.run(wide_plans[at % wide_plans.size()], p.shape, call,
                   {workspace.data(), workspace.size()}, stream);
        else
          gemm.run(plans[at % plans.size()], p.shape, call, stream);
      } else {
        linear.run(out, p.weight(), x, m, stream);
      }
      if (eager) TROUPE_CUDA(cudaStreamSynchronize(stream));
      x = {out, nullptr};
      if (format == WeightFormat::kFp8) {
        quantize_rows(codes.data(), scale.data(), out, m, kWidth, stream);
        x = {codes.data(), scale.data()};
      }
      if (eager) TROUPE_CUDA(cudaStreamSynchronize(stream));
    }
  };
  cudaStream_t stream = nullptr;
  TROUPE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  TROUPE_CUDA(cudaDeviceSynchronize());
  step(stream, true);
  const auto eager = download(reinterpret_cast<const uint16_t*>(b.data()), n);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  TROUPE_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  step(stream, false);
  TROUPE_CUDA(cudaStreamEndCapture(stream, &graph));
  TROUPE_CUDA(cudaGraphInstantiate(&executable, graph, 0));
  for (int i = 0; i < 50; ++i) {
    TROUPE_CUDA(cudaMemsetAsync(a.data(), 0xff, a.bytes(), stream));
    TROUPE_CUDA(cudaMemsetAsync(b.data(), 0xff, b.bytes(), stream));
    TROUPE_CUDA(cudaGraphLaunch(executable, stream));
    TROUPE_CUDA(cudaStreamSynchronize(stream));
    const auto replayed = download(reinterpret_cast<const uint16_t*>(b.data()), n);
    ASSERT_EQ(eager, replayed) << p.name() << (own ? ", own" : "") << ", replay " << i;
  }
  TROUPE_CUDA(cudaGraphExecDestroy(executable));
  TROUPE_CUDA(cudaGraphDestroy(graph));
  TROUPE_CUDA(cudaStreamDestroy(stream));
}

TEST_F(LinearTest, ReplayedChainEqualsEagerSteps) {
  for (const bool own : {false, true}) {
    for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8}) {
      for (const int32_t m : {1, 16, 33, 64, 128, 256}) expect_replay_equals_eager(format, m, own);
    }
  }
}

TEST_F(LinearTest, TunedTableSurvivesAFile) {
  test::TempDir dir;
  const std::string path = dir / "table.jsonl";
  Problem p(960, 576, 5, WeightFormat::kBf16);
  Linear tuned;
  tuned.load_table(path);  // absent
  tuned.tune_alone(p.weight(), 5, false, nullptr);
  tuned.save_table(path);
  std::ifstream file(path);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  EXPECT_NE(text.find("\"rows\":960"), std::string::npos) << text;
  p.poison();
  tuned.run(p.out(), p.weight(), p.tokens(), 5, nullptr);
  EXPECT_LE(p.error(), kBf16Tolerance);
  const auto first = p.bytes();

  Linear loaded;
  loaded.load_table(path);
  p.poison();
  loaded.run(p.out(), p.weight(), p.tokens(), 5, nullptr);
  EXPECT_EQ(first, p.bytes());
  loaded.save_table(path);
  std::ifstream again(path);
  EXPECT_EQ(text,
            std::string((std::istreambuf_iterator<char>(again)), std::istreambuf_iterator<char>()));

  dir.write("table.jsonl",
            "{\"gpu\":\"another\"}\nnot json\n[]\n" + text.substr(0, text.size() / 2));
  Linear damaged;
  damaged.load_table(path);
  p.poison();
  damaged.run(p.out(), p.weight(), p.tokens(), 5, nullptr);
  EXPECT_LE(p.error(), kBf16Tolerance);
}

// ---- quantisation -------------------------------------------------------------------------------

class QuantizeTest : public CudaTest {};

TEST_F(QuantizeTest, RowsByTheirLargestValue) {
  for (const int32_t cols : {16, 64, 576, 4096, 14336}) {
    constexpr int32_t kRows = 9;
    std::vector<__nv_bfloat16> x(static_cast<size_t>(kRows * cols));
    std::mt19937 random(static_cast<uint32_t>(cols));
    for (size_t i = 0; i < x.size(); ++i) {
      const auto row = i / static_cast<size_t>(cols);
      const float u = static_cast<float>(random() >> 8) * 0x1p-23F - 1.0F;
      const float size = row == 0 ? 0.0F : std::exp2(static_cast<float>(row) * 8.0F - 40.0F);
      x[i] = __float2bfloat16(u * size);
    }
    const auto in = test::upload(x);
    DeviceBuffer<uint8_t> codes(x.size());
    DeviceBuffer<float> scale(kRows);
    TROUPE_CUDA(cudaMemset(codes.data(), 0xff, codes.bytes()));
    quantize_rows(codes.data(), scale.data(), in.data(), kRows, cols, nullptr);
    const auto got = download(codes.data(), codes.size());
    const auto scales = download(scale.data(), scale.size());
    for (int32_t r = 0; r < kRows; ++r) {
      float largest = 0.0F;
      for (int32_t c = 0; c < cols; ++c) {
        largest =
            std::max(largest, std::fabs(__bfloat162float(x[static_cast<size_t>(r * cols + c)])));
      }
      const float want = r == 0 ? 1.0F : largest / 448.0F;
      ASSERT_EQ(scales[static_cast<size_t>(r)], want) << cols << ", row " << r;
      for (int32_t c = 0; c < cols; ++c) {
        const auto i = static_cast<size_t>(r * cols + c);
        __nv_fp8_e4m3 code;
        code.__x = got[i];
        // Half a step of a 3-bit mantissa, and of the smallest one below the normal numbers.
        const float value = __bfloat162float(x[i]) / want;
        ASSERT_LE(std::fabs(static_cast<float>(code) - value),
                  std::max(std::fabs(value) * 0x1p-4F * 1.00001F, 0x1p-10F * 1.00001F))
            << cols << ", row " << r << ", column " << c;
      }
    }
  }
}

TEST_F(QuantizeTest, ExpandedWeightsAreCodeTimesScale) {
  constexpr int64_t kRows = 7;
  constexpr int64_t kCols = 256;
  std::vector<uint8_t> codes(static_cast<size_t>(kRows * kCols));
  for (size_t i = 0; i < codes.size(); ++i)
    codes[i] = static_cast<uint8_t>(i % 0x7f + i / 2 % 2 * 0x80);
  std::vector<float> scale = {1.0F, 0.5F, 0.001F, 3.0F, 1e-6F, 100.0F, 0.7F};
  const auto device_codes = test::upload(codes);
  const auto device_scale = test::upload(scale);
  DeviceBuffer<__nv_bfloat16> out(codes.size());
  expand_weights(out.data(), device_codes.data(), device_scale.data(), kRows, kCols, nullptr);
  const auto got = download(out.data(), out.size());
  for (size_t i = 0; i < codes.size(); ++i) {
    __nv_fp8_e4m3 code;
    code.__x = codes[i];
    const float want = static_cast<float>(code) * scale[i / kCols];
    ASSERT_EQ(__bfloat162float(got[i]), __bfloat162float(__float2bfloat16(want))) << i;
  }
}

TEST_F(QuantizeTest, RandomValuesAreNormalAndRepeatable) {
  constexpr int64_t kCount = 1'000'001;
  DeviceBuffer<__nv_bfloat16> a(kCount), b(kCount);
  fill_normal(a.data(), kCount, 0.5F, 3, nullptr);
  fill_normal(b.data(), kCount, 0.5F, 3, nullptr);
  const auto x = download(a.data(), kCount);
  const auto y = download(b.data(), kCount);
  double sum = 0.0;
  double squares = 0.0;
  int64_t beyond_two = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double v = __bfloat162float(x[i]);
    ASSERT_EQ(v, double{__bfloat162float(y[i])});
    sum += v;
    squares += v * v;
    beyond_two += std::fabs(v) > 1.0 ? 1 : 0;
  }
  EXPECT_NEAR(sum / kCount, 0.0, 0.5 * 5 / 1000);  // five standard errors
  EXPECT_NEAR(squares / kCount, 0.25, 0.01);
  EXPECT_NEAR(static_cast<double>(beyond_two) / kCount, 0.0455, 0.002);
}

}  // namespace
}  // namespace troupe::cuda
