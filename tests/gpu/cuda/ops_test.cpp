#include "gpu/cuda/ops.h"

#include "gpu/cuda/quantize.h"
#include "gpu/device/stream.h"
#include "gpu/ops/attention.h"
#include "gpu/ops/rms_norm.h"
#include "gpu/ops/silu_mul.h"
#include "tests/support/cuda_device.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <tuple>
#include <vector>

// Each CUDA op against its CPU twin, which gets the bf16-rounded inputs. The tolerance is that of
// bf16 outputs: 3e-3 of the reference's norm.
namespace troupe {
namespace {

using Floats = std::vector<float>;
using Bits = std::vector<uint16_t>;

constexpr double kTolerance = 3e-3;

uint16_t to_bf16(float f) {
  const auto bits = std::bit_cast<uint32_t>(f);
  return static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}
float from_bf16(uint16_t h) { return std::bit_cast<float>(static_cast<uint32_t>(h) << 16); }

/// e4m3: 4 exponent bits, bias 7, no infinity.
float from_e4m3(uint8_t c) {
  const int exponent = (c >> 3) & 15;
  const int mantissa = c & 7;
  const double v =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return static_cast<float>((c & 128) != 0 ? -v : v);
}

class CudaOps : public test::CudaTest {
 protected:
  Bits random_bits(size_t n, float mean = 0.0F, float scale = 1.0F) {
    std::normal_distribution<float> normal(mean, scale);
    Bits out(n);
    for (uint16_t& v : out) v = to_bf16(normal(random_));
    return out;
  }
  static Floats floats(const Bits& bits) {
    Floats out;
    for (const uint16_t b : bits) out.push_back(from_bf16(b));
    return out;
  }
  /// bf16 on the device.
  static cuda::DeviceBuffer<__nv_bfloat16> put(const Bits& bits) {
    cuda::DeviceBuffer<__nv_bfloat16> out(bits.size());
    TROUPE_CUDA(cudaMemcpy(out.data(), bits.data(), bits.size() * 2, cudaMemcpyHostToDevice));
    return out;
  }
  static cuda::DeviceBuffer<__nv_bfloat16> poisoned(size_t n) {
    cuda::DeviceBuffer<__nv_bfloat16> out(n);
    TROUPE_CUDA(cudaMemset(out.data(), 0xff, out.bytes()));  // NaN
    return out;
  }
  static Floats get(const __nv_bfloat16* from, size_t n) {
    Bits bits(n);
    TROUPE_CUDA(cudaDeviceSynchronize());
    TROUPE_CUDA(cudaMemcpy(bits.data(), from, n * 2, cudaMemcpyDeviceToHost));
    return floats(bits);
  }
  static Floats decoded(const cuda::DeviceBuffer<uint8_t>& codes,
                        const cuda::DeviceBuffer<float>& scales, size_t width) {
    TROUPE_CUDA(cudaDeviceSynchronize());
    const auto c = test::download(codes.data(), codes.size());
    const auto s = test::download(scales.data(), scales.size());
    Floats out;
    for (size_t i = 0; i < c.size(); ++i) out.push_back(from_e4m3(c[i]) * s[i / width]);
    return out;
  }
  static double distance(const Floats& out, const Floats& expected) {
    EXPECT_EQ(out.size(), expected.size());
    double difference = 0;
    double norm = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      difference += std::pow(double{out[i]} - double{expected[i]}, 2);
      norm += std::pow(double{expected[i]}, 2);
    }
    return std::sqrt(difference / norm);  // NaN where any output is
  }

  std::mt19937 random_{1};
  Stream stream_{1};
};

constexpr int32_t kTokens[] = {1, 3, 17, 520};

TEST_F(CudaOps, EmbeddingCopiesRowsOfThisRankAndZeroesOthers) {
  constexpr int32_t kHidden = 136;
  const Bits table = random_bits(10 * kHidden);
  const auto device_table = put(table);
  const auto tokens = test::upload(std::vector<int32_t>{4, 13, 14, 3, 5});
  const auto out = poisoned(5 * kHidden);
  cuda::embedding(out.data(), device_table.data(), tokens.data(), 4, 10, 5, kHidden, nullptr);
  const Floats result = get(out.data(), out.size());
  const int32_t rows[] = {0, 9, -1, -1, 1};
  for (size_t t = 0; t < 5; ++t)
    for (size_t i = 0; i < kHidden; ++i)
      ASSERT_EQ(result[t * kHidden + i],
                rows[t] < 0 ? 0.0F : from_bf16(table[static_cast<size_t>(rows[t]) * kHidden + i]));
}

TEST_F(CudaOps, AddRmsNormMatchesCpu) {
  for (const int32_t hidden : {64, 200, 4096, 8192, 9000}) {
    for (const int32_t n : kTokens) {
      const auto size = static_cast<size_t>(n) * static_cast<size_t>(hidden);
      const Bits residual = random_bits(size);
      const Bits x = random_bits(size);
      const Bits weight = random_bits(static_cast<size_t>(hidden), 1.0F, 0.2F);
      Floats expected_residual = floats(residual);
      Floats expected(size);
      cpu::add_rms_norm(expected.data(), expected_residual.data(), floats(x).data(),
                        floats(weight).data(), n, hidden, 1e-5F, stream_);
      const auto r = put(residual);
      const auto xd = put(x);
      const auto w = put(weight);
      const auto out = poisoned(size);
      cuda::add_rms_norm({out.data(), nullptr, nullptr}, r.data(), {xd.data(), nullptr, nullptr},
                         nullptr, w.data(), n, hidden, 1e-5F, nullptr);
      EXPECT_LT(distance(get(out.data(), size), expected), kTolerance) << hidden << ' ' << n;
      EXPECT_LT(distance(get(r.data(), size), expected_residual), kTolerance) << hidden << ' ' << n;
    }
  }
}

TEST_F(CudaOps, NormWithoutSumLeavesTheResidual) {
  const Bits residual = random_bits(2 * 512);
  const Bits weight = random_bits(512, 1.0F, 0.2F);
  Floats expected(residual.size());
  cpu::rms_norm(expected.data(), floats(residual).data(), floats(weight).data(), 2, 512, 1e-6F,
                stream_);
  const auto r = put(residual);
  const auto w = put(weight);
  const auto out = poisoned(residual.size());
  cuda::add_rms_norm({out.data(), nullptr, nullptr}, r.data(), {}, nullptr, w.data(), 2, 512, 1e-6F,
                     nullptr);
  EXPECT_LT(distance(get(out.data(), residual.size()), expected), kTolerance);
  EXPECT_EQ(get(r.data(), residual.size()), floats(residual));
}

TEST_F(CudaOps, AddRmsNormAppliesScalesAndBiasAndQuantises) {
  constexpr int32_t kHidden = 4096;
  constexpr int32_t kN = 5;
  constexpr size_t kSize = size_t{kN} * kHidden;
  const Bits residual = random_bits(kSize);
  const Bits x = random_bits(kSize);
  const Bits bias = random_bits(kHidden);
  const Bits weight = random_bits(kHidden, 1.0F, 0.2F);
  const Floats token_scale = {0.5F, 1.0F, 2.0F, 0.25F, 3.0F};
  Floats channel_scale;
  for (int32_t i = 0; i < kHidden; ++i)
    channel_scale.push_back(0.5F + static_cast<float>(i % 7) * 0.1F);
  Floats scaled = floats(x);
  for (size_t i = 0; i < kSize; ++i)
    scaled[i] = scaled[i] * token_scale[i / kHidden] * channel_scale[i % kHidden] +
                from_bf16(bias[i % kHidden]);
  Floats expected_residual = floats(residual);
  Floats expected(kSize);
  cpu::add_rms_norm(expected.data(), expected_residual.data(), scaled.data(), floats(weight).data(),
                    kN, kHidden, 1e-5F, stream_);
  const auto r = put(residual);
  const auto xd = put(x);
  const auto b = put(bias);
  const auto w = put(weight);
  const auto ts = test::upload(token_scale);
  const auto cs = test::upload(channel_scale);
  const cuda::DeviceBuffer<uint8_t> codes(kSize);
  const cuda::DeviceBuffer<float> scales(kN);
  const auto out = poisoned(kSize);
  cuda::add_rms_norm({out.data(), codes.data(), scales.data()}, r.data(),
                     {xd.data(), ts.data(), cs.data()}, b.data(), w.data(), kN, kHidden, 1e-5F,
                     nullptr);
  EXPECT_LT(distance(get(out.data(), kSize), expected), kTolerance);
  EXPECT_LT(distance(get(r.data(), kSize), expected_residual), kTolerance);
  EXPECT_LT(distance(decoded(codes, scales, kHidden), expected), 4e-2);  // 3 bits of mantissa
}

// Many tokens have a kernel of their own for some widths.
TEST_F(CudaOps, NormOfManyTokensEqualsThatOfFew) {
  constexpr int32_t kN = 1027;
  constexpr int32_t kPart = 500;
  for (const int32_t hidden : {2048, 3072, 3584, 4096}) {
    const auto width = static_cast<size_t>(hidden);
    const size_t size = size_t{kN} * width;
    const Bits residual = random_bits(size);
    const auto x = put(random_bits(size));
    const auto bias = put(random_bits(width));
    const auto weight = put(random_bits(width, 1.0F, 0.2F));
    Floats factors(std::max(size_t{kN}, width));
    for (size_t i = 0; i < factors.size(); ++i)
      factors[i] = 0.5F + static_cast<float>(i % 7) * 0.1F;
    const auto scale = test::upload(factors);
    for (const bool adds : {true, false}) {
      const auto run = [&](int32_t part, const auto& r, const auto& out, const auto& codes,
                           const auto& scales) {
        for (int32_t t = 0; t < kN; t += part) {
          const size_t at = static_cast<size_t>(t) * width;
          cuda::Product product;
          if (adds) product = {x.data() + at, scale.data() + t, scale.data()};
          cuda::add_rms_norm({out.data() + at, codes.data() + at, scales.data() + t}, r.data() + at,
                             product, adds ? bias.data() : nullptr, weight.data(),
                             std::min(part, kN - t), hidden, 1e-5F, nullptr);
        }
      };
      const auto few_r = put(residual);
      const auto many_r = put(residual);
      const auto few = poisoned(size);
      const auto many = poisoned(size);
      const cuda::DeviceBuffer<uint8_t> few_codes(size);
      const cuda::DeviceBuffer<uint8_t> many_codes(size);
      const cuda::DeviceBuffer<float> few_scales(kN);
      const cuda::DeviceBuffer<float> many_scales(kN);
      run(kPart, few_r, few, few_codes, few_scales);
      run(kN, many_r, many, many_codes, many_scales);
      EXPECT_EQ(get(many_r.data(), size), get(few_r.data(), size)) << hidden;
      EXPECT_LT(distance(get(many.data(), size), get(few.data(), size)), 1e-3) << hidden;
      EXPECT_LT(
          distance(decoded(many_codes, many_scales, width), decoded(few_codes, few_scales, width)),
          4e-3)
          << hidden;
    }
  }
}

TEST_F(CudaOps, SiluMulMatchesCpu) {
  for (const int32_t width : {16, 96, 14336, 28672}) {
    for (const int32_t n : kTokens) {
      const auto size = static_cast<size_t>(n) * static_cast<size_t>(width);
      const Bits gate_up = random_bits(2 * size, 0.0F, 3.0F);
      Floats expected(size);
      cpu::silu_mul(expected.data(), floats(gate_up).data(), n, width, stream_);
      const auto in = put(gate_up);
      const auto out = poisoned(size);
      cuda::silu_mul({out.data(), nullptr, nullptr}, {in.data(), nullptr, nullptr}, n, width,
                     nullptr);
      EXPECT_LT(distance(get(out.data(), size), expected), kTolerance) << width << ' ' << n;
      const cuda::DeviceBuffer<uint8_t> codes(size);
      const cuda::DeviceBuffer<float> scales(static_cast<size_t>(n));
      cuda::silu_mul({nullptr, codes.data(), scales.data()}, {in.data(), nullptr, nullptr}, n,
                     width, nullptr);
      EXPECT_LT(distance(decoded(codes, scales, static_cast<size_t>(width)), expected), 4e-2)
          << width << ' ' << n;
    }
  }
}

TEST_F(CudaOps, GatherCopiesRows) {
  constexpr int32_t kWidth = 72;
  const Bits in = random_bits(9 * kWidth);
  const auto device = put(in);
  const auto rows = test::upload(std::vector<int32_t>{8, 0, 3});
  const auto out = poisoned(3 * kWidth);
  cuda::gather_rows(out.data(), device.data(), rows.data(), 3, kWidth, nullptr);
  const Floats result = get(out.data(), out.size());
  for (size_t i = 0; i < kWidth; ++i) {
    ASSERT_EQ(result[i], from_bf16(in[8 * kWidth + i]));
    ASSERT_EQ(result[kWidth + i], from_bf16(in[i]));
    ASSERT_EQ(result[2 * kWidth + i], from_bf16(in[3 * kWidth + i]));
  }
}

// ---- rotary embedding and KV --------------------------------------------------------------------

struct RopeCase {
  const char* name;
  int32_t head_dim;
  int32_t rotary_dim;
  bool interleaved;
  bool bias;
  bool norm;
  bool fp8;
};
void PrintTo(const RopeCase& c, std::ostream* out) { *out << c.name; }

class CudaRope : public CudaOps, public ::testing::WithParamInterface<RopeCase> {};

TEST_P(CudaRope, MatchesCpu) {
  const RopeCase c = GetParam();
  constexpr int32_t kHeads = 6;
  constexpr int32_t kKvHeads = 2;
  constexpr int32_t kSlots = 40;
  const int32_t width = (kHeads + 2 * kKvHeads) * c.head_dim;
  const std::vector<int32_t> positions = {0, 1, 17, 4095, 131071};
  const std::vector<int32_t> slots = {39, 0, 7, 8, 21};
  const auto n = static_cast<int32_t>(positions.size());
  const Bits qkv = random_bits(positions.size() * static_cast<size_t>(width));
  const Bits bias = random_bits(static_cast<size_t>(width));
  const Bits q_norm = random_bits(static_cast<size_t>(c.head_dim), 1.0F, 0.2F);
  const Bits k_norm = random_bits(static_cast<size_t>(c.head_dim), 1.0F, 0.2F);
  Floats frequency;
  for (int32_t i = 0; i < c.rotary_dim / 2; ++i)
    frequency.push_back(
        static_cast<float>(std::pow(500000.0, -2.0 * i / static_cast<double>(c.rotary_dim))));

  Floats expected_qkv = floats(qkv);
  if (c.bias)
    for (size_t i = 0; i < expected_qkv.size(); ++i)
      expected_qkv[i] += from_bf16(bias[i % static_cast<size_t>(width)]);
  const auto kv_size = size_t{kSlots} * kKvHeads * 2 * static_cast<size_t>(c.head_dim);
  Floats expected_kv(kv_size, 0.0F);
  const Floats qn = floats(q_norm);
  const Floats kn = floats(k_norm);
  cpu::rope_and_store_kv(
      expected_qkv.data(), {expected_kv.data(), DType::kF32, kKvHeads, c.head_dim},
      {kHeads, kKvHeads, c.head_dim}, {c.interleaved, c.rotary_dim, frequency, 1.25F},
      c.norm ? qn.data() : nullptr, c.norm ? kn.data() : nullptr, 1e-6F, positions, slots, stream_);

  const auto in = put(qkv);
  const auto b = put(bias);
  const auto qnd = put(q_norm);
  const auto knd = put(k_norm);
  const auto freq = test::upload(frequency);
  const auto pos = test::upload(positions);
  const auto slot = test::upload(slots);
  const size_t q_width = size_t{kHeads} * static_cast<size_t>(c.head_dim);
  const auto q = poisoned(positions.size() * q_width);
  const cuda::DeviceBuffer<uint8_t> kv(kv_size * (c.fp8 ? 1 : 2));
  TROUPE_CUDA(cudaMemset(kv.data(), 0, kv.bytes()));
  cuda::KvLayer layer;
  layer.data = kv.data();
  layer.format = c.fp8 ? cuda::KvFormat::kFp8 : cuda::KvFormat::kBf16;
  layer.k_scale = 0.5F;
  layer.v_scale = 2.0F;
  cuda::rope_and_store_kv(q.data(), layer, {in.data(), nullptr, nullptr},
                          c.bias ? b.data() : nullptr, {kHeads, kKvHeads, c.head_dim},
                          {freq.data(), c.rotary_dim, c.interleaved, 1.25F},
                          c.norm ? qnd.data() : nullptr, c.norm ? knd.data() : nullptr, 1e-6F,
                          pos.data(), slot.data(), n, nullptr);
  const Floats got_q = get(q.data(), q.size());
  Floats want_q;
  for (size_t t = 0; t < positions.size(); ++t)
    for (size_t i = 0; i < q_width; ++i)
      want_q.push_back(expected_qkv[t * static_cast<size_t>(width) + i]);
  EXPECT_LT(distance(got_q, want_q), kTolerance);

  Floats got_kv;
  const auto raw = test::download(kv.data(), kv.size());
  for (size_t i = 0; i < kv_size; ++i) {
    if (c.fp8) {
      const bool is_v = i / static_cast<size_t>(c.head_dim) % 2 == 1;
      got_kv.push_back(from_e4m3(raw[i]) * (is_v ? layer.v_scale : layer.k_scale));
    } else {
      uint16_t bits = 0;
      std::memcpy(&bits, raw.data() + 2 * i, 2);
      got_kv.push_back(from_bf16(bits));
    }
  }
  EXPECT_LT(distance(got_kv, expected_kv), c.fp8 ? 4e-2 : kTolerance);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, CudaRope,
    ::testing::Values(RopeCase{"llama128", 128, 128, false, false, false, false},
                      RopeCase{"llama64", 64, 64, false, false, false, false},
                      RopeCase{"interleaved64", 64, 64, true, false, false, false},
                      RopeCase{"qwen2", 128, 128, false, true, false, false},
                      RopeCase{"qwen3", 128, 128, false, false, true, false},
                      RopeCase{"qwen3_64", 64, 64, false, true, true, false},
                      RopeCase{"partial", 128, 64, false, false, false, false},
                      RopeCase{"partial_interleaved", 64, 32, true, false, false, false},
                      RopeCase{"fp8", 128, 128, false, false, false, true}),
    [](const auto& rope_case) { return std::string(rope_case.param.name); });

}  // namespace
}  // namespace troupe
