#include "gpu/base/half.h"
#include "gpu/device/stream.h"
#include "gpu/ops/attention.h"
#include "tests/support/isas.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace troupe {
namespace {

constexpr int32_t kHeads = 3;
constexpr int32_t kKvHeads = 2;

struct Case {
  int32_t head_dim = 64;
  int32_t rotary_dim = 64;
  bool interleaved = false;
  bool norms = false;
  float magnitude = 1.0F;
  DType dtype = DType::kF16;
};

std::vector<float> frequencies(int32_t rotary_dim) {
  std::vector<float> f;
  for (int32_t i = 0; i < rotary_dim / 2; ++i)
    f.push_back(static_cast<float>(std::pow(10000.0, -2.0 * i / rotary_dim)));
  return f;
}

/// One head after the optional norm and the rotation, in double.
std::vector<double> naive(const float* x, const Case& c, const std::vector<float>& frequency,
                          const float* norm, int32_t position) {
  std::vector<double> y(x, x + c.head_dim);
  if (norm != nullptr) {
    double sum = 0.0;
    for (const double e : y) sum += e * e;
    const double factor = 1.0 / std::sqrt(sum / c.head_dim + 1e-6);
    for (size_t i = 0; i < y.size(); ++i) y[i] *= factor * static_cast<double>(norm[i]);
  }
  const auto n = static_cast<size_t>(c.rotary_dim / 2);
  for (size_t i = 0; i < n; ++i) {
    const size_t a = c.interleaved ? 2 * i : i;
    const size_t b = c.interleaved ? 2 * i + 1 : i + n;
    const double angle = position * static_cast<double>(frequency[i]);
    const double m = static_cast<double>(c.magnitude);
    const double ya = y[a];
    y[a] = m * (ya * std::cos(angle) - y[b] * std::sin(angle));
    y[b] = m * (ya * std::sin(angle) + y[b] * std::cos(angle));
  }
  return y;
}

class RopeTest : public testing::TestWithParam<Isa> {
 protected:
  Stream stream_{2, GetParam()};

  void check(const Case& c) {
    const std::vector<int32_t> positions = {0, 1, 2, 17, 1000, 8191, 65535, 131071, 5, 131072};
    const std::vector<int32_t> slots = {9, 3, 0, 14, 15, 1, 2, 7, 8, 12};
    const int32_t d = c.head_dim;
    const int32_t width = (kHeads + 2 * kKvHeads) * d;
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> qkv(positions.size() * static_cast<size_t>(width));
    for (float& x : qkv) x = normal(random);
    std::vector<float> q_norm(static_cast<size_t>(d));
    std::vector<float> k_norm(static_cast<size_t>(d));
    for (float& x : q_norm) x = normal(random);
    for (float& x : k_norm) x = normal(random);
    const auto before = qkv;
    const auto frequency = frequencies(c.rotary_dim);

    const size_t elements = 16 * static_cast<size_t>(kKvHeads * 2 * d);
    std::vector<float> f32(elements, -7.0F);
    std::vector<uint16_t> f16(elements, f16_from_float(-7.0F));
    const bool half = c.dtype == DType::kF16;
    const KvLayer kv{half ? static_cast<void*>(f16.data()) : f32.data(), c.dtype, kKvHeads, d};
    cpu::rope_and_store_kv(qkv.data(), kv, {kHeads, kKvHeads, d},
                           {c.interleaved, c.rotary_dim, frequency, c.magnitude},
                           c.norms ? q_norm.data() : nullptr, c.norms ? k_norm.data() : nullptr,
                           1e-6F, positions, slots, stream_);

    std::vector<bool> written(16, false);
    for (size_t t = 0; t < positions.size(); ++t) {
      const float* in = before.data() + t * static_cast<size_t>(width);
      const float* out = qkv.data() + t * static_cast<size_t>(width);
      for (int32_t h = 0; h < kHeads; ++h) {
        const auto want =
            naive(in + h * d, c, frequency, c.norms ? q_norm.data() : nullptr, positions[t]);
        for (int32_t i = 0; i < d; ++i)
          ASSERT_NEAR(static_cast<double>(out[h * d + i]), want[static_cast<size_t>(i)], 1e-5)
              << "position " << positions[t] << " q " << i;
      }
      written[static_cast<size_t>(slots[t])] = true;
      for (int32_t h = 0; h < kKvHeads; ++h) {
        const float* k = in + (kHeads + h) * d;
        const float* v = in + (kHeads + kKvHeads + h) * d;
        const auto want = naive(k, c, frequency, c.norms ? k_norm.data() : nullptr, positions[t]);
        const float* rotated = out + (kHeads + h) * d;
        const auto at = static_cast<size_t>((slots[t] * kKvHeads + h) * 2 * d);
        for (size_t i = 0; i < static_cast<size_t>(d); ++i) {
          ASSERT_NEAR(static_cast<double>(rotated[i]), want[i], 1e-5);
          if (half) {
            ASSERT_EQ(f16[at + i], f16_from_float(rotated[i])) << "k " << i;
            ASSERT_EQ(f16[at + static_cast<size_t>(d) + i], f16_from_float(v[i])) << "v " << i;
          } else {
            ASSERT_EQ(f32[at + i], rotated[i]);
            ASSERT_EQ(f32[at + static_cast<size_t>(d) + i], v[i]);
          }
        }
      }
    }
    for (size_t slot = 0; slot < 16; ++slot) {
      const size_t per_slot = elements / 16;
      for (size_t i = 0; !written[slot] && i < per_slot; ++i)
        ASSERT_EQ(half ? float_from_f16(f16[slot * per_slot + i]) : f32[slot * per_slot + i], -7.0F)
            << "slot " << slot << " is nobody's";
    }
  }
};

TEST_P(RopeTest, HalfSplit) { check({}); }
TEST_P(RopeTest, Interleaved) { check({64, 64, true}); }
TEST_P(RopeTest, HalfSplitWithNorms) { check({128, 128, false, true}); }
TEST_P(RopeTest, InterleavedWithNormsInF32) { check({128, 128, true, true, 1.0F, DType::kF32}); }
TEST_P(RopeTest, PartialRotation) { check({80, 32, false, false, 1.0F, DType::kF32}); }
TEST_P(RopeTest, PartialInterleavedRotation) { check({72, 20, true}); }
TEST_P(RopeTest, NoRotation) { check({64, 0}); }
TEST_P(RopeTest, Magnitude) { check({64, 64, false, false, 1.25F}); }
TEST_P(RopeTest, LargestHead) { check({256, 256, false, true}); }

INSTANTIATE_TEST_SUITE_P(Isa, RopeTest, testing::ValuesIn(testing_support::runnable_isas()),
                         testing_support::isa_name);

}  // namespace
}  // namespace troupe
