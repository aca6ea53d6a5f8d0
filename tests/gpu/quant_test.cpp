#include "gpu/quant/codes.h"
#include "gpu/quant/dequantize.h"
#include "tests/gpu/quantised_tensor.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <fstream>
#include <sstream>

namespace troupe {
namespace {

std::vector<float> expand(DType dtype, const std::vector<std::byte>& block) {
  std::vector<float> values(static_cast<size_t>(block_elements(dtype)));
  dequantize_row(dtype, block.data(), 0, block_elements(dtype), values.data());
  return values;
}

std::vector<std::byte> zero_block(DType dtype) {
  return std::vector<std::byte>(static_cast<size_t>(block_bytes(dtype)));
}

constexpr std::byte kHalfOneHigh{0x3c};  // f16 1.0 = 0x3c00
constexpr std::byte kHalfTwoHigh{0x40};  // f16 2.0 = 0x4000

TEST(Dequantize, Q4_0PutsLowNibblesFirst) {
  auto block = zero_block(DType::kQ4_0);
  block[1] = kHalfTwoHigh;
  block[2] = std::byte{0xf9};
  const auto w = expand(DType::kQ4_0, block);
  EXPECT_EQ(w[0], 2.0F * (9 - 8));
  EXPECT_EQ(w[16], 2.0F * (15 - 8));
  EXPECT_EQ(w[1], 2.0F * -8);
}

TEST(Dequantize, Q4_1AddsTheMinimum) {
  auto block = zero_block(DType::kQ4_1);
  block[1] = kHalfTwoHigh;
  block[3] = kHalfOneHigh;
  block[19] = std::byte{0x5a};
  const auto w = expand(DType::kQ4_1, block);
  EXPECT_EQ(w[15], 2.0F * 10 + 1);
  EXPECT_EQ(w[31], 2.0F * 5 + 1);
  EXPECT_EQ(w[0], 1.0F);
}

TEST(Dequantize, Q5FifthBitsAreInOneWord) {
  auto block = zero_block(DType::kQ5_0);
  block[1] = kHalfOneHigh;
  block[2] = std::byte{0x01};
  block[5] = std::byte{0x80};
  const auto w = expand(DType::kQ5_0, block);
  EXPECT_EQ(w[0], 0.0F);
  EXPECT_EQ(w[1], -16.0F);
  EXPECT_EQ(w[31], 0.0F);
  auto affine = zero_block(DType::kQ5_1);
  affine[1] = kHalfOneHigh;
  affine[3] = kHalfTwoHigh;
  affine[4] = std::byte{0x02};
  EXPECT_EQ(expand(DType::kQ5_1, affine)[1], 18.0F);
  EXPECT_EQ(expand(DType::kQ5_1, affine)[0], 2.0F);
}

TEST(Dequantize, Q8_0IsSigned) {
  auto block = zero_block(DType::kQ8_0);
  block[1] = kHalfTwoHigh;
  block[2] = std::byte{0x80};
  block[33] = std::byte{0x7f};
  const auto w = expand(DType::kQ8_0, block);
  EXPECT_EQ(w[0], -256.0F);
  EXPECT_EQ(w[31], 254.0F);
}

TEST(Dequantize, Q4_KScalesOfTheLastSubBlocksAreSplit) {
  auto block = zero_block(DType::kQ4_K);
  block[1] = kHalfOneHigh;
  block[3] = kHalfOneHigh;
  block[4 + 3] = std::byte{0x80};         // high bits of scale 7: 2
  block[4 + 7] = std::byte{0x40};         // high bits of min 7: 1
  block[4 + 11] = std::byte{0x35};        // low bits: scale 5, min 3
  block[16 + 96 + 31] = std::byte{0x70};  // element 31 of sub-block 7: 7
  const auto w = expand(DType::kQ4_K, block);
  EXPECT_EQ(w[255], 37.0F * 7 - 19.0F);
  EXPECT_EQ(w[254], -19.0F);
  EXPECT_EQ(w[0], 0.0F);
}

TEST(Dequantize, Q6_KScalesAreSigned) {
  auto block = zero_block(DType::kQ6_K);
  block[209] = kHalfOneHigh;
  block[192 + 15] = std::byte{0xff};       // scale -1
  block[64 + 63] = std::byte{0xe0};        // element 255: low bits 14
  block[128 + 32 + 31] = std::byte{0xc0};  // element 255: high bits 3
  const auto w = expand(DType::kQ6_K, block);
  EXPECT_EQ(w[255], -1.0F * (62 - 32));
  EXPECT_EQ(w[254], 32.0F);
}

TEST(Dequantize, E4m3) {
  const auto value = [](uint8_t code) { return expand(DType::kF8E4M3, {std::byte{code}})[0]; };
  EXPECT_EQ(value(0x38), 1.0F);
  EXPECT_EQ(value(0xb9), -1.125F);
  EXPECT_EQ(value(0x7e), 448.0F);
  EXPECT_EQ(value(0x08), 0x1p-6F);      // the least normal number
  EXPECT_EQ(value(0x07), 7 * 0x1p-9F);  // the largest below it
  EXPECT_EQ(value(0x81), -0x1p-9F);
  EXPECT_TRUE(std::signbit(value(0x80)));
  EXPECT_TRUE(std::isnan(value(0x7f)));
  EXPECT_TRUE(std::isnan(value(0xff)));
}

// Vectors made with the Python package `gguf` (gguf.quants.dequantize) from random blocks. One line
// is: format, block bytes in hex, the bits of every fp32 value in hex.
TEST(Dequantize, EqualsTheReferenceBitForBit) {
  std::ifstream file(TROUPE_SOURCE_DIR "/tests/data/quant_golden.txt");
  ASSERT_TRUE(file.is_open());
  int formats = 0;
  for (std::string line; std::getline(file, line); ++formats) {
    std::istringstream words(line);
    std::string name;
    std::string hex;
    words >> name >> hex;
    for (const DType dtype : test::all_dtypes()) {
      if (to_string(dtype) != name) continue;
      auto block = zero_block(dtype);
      ASSERT_EQ(hex.size(), 2 * block.size());
      for (size_t i = 0; i < block.size(); ++i) {
        block[i] = static_cast<std::byte>(std::stoul(hex.substr(2 * i, 2), nullptr, 16));
      }
      const auto values = expand(dtype, block);
      for (size_t i = 0; i < values.size(); ++i) {
        std::string bits;
        ASSERT_TRUE(words >> bits);
        EXPECT_EQ(values[i],
                  std::bit_cast<float>(static_cast<uint32_t>(std::stoul(bits, nullptr, 16))))
            << name << " element " << i;
      }
    }
  }
  EXPECT_EQ(formats, 7);
}

TEST(Dequantize, AnyRangeEqualsThatPartOfTheRow) {
  for (const DType dtype : test::all_dtypes()) {
    const test::RandomTensor tensor(dtype, 2, 512, 3);
    const auto whole = tensor.row(1, 0, 512);
    for (const auto& [begin, end] : {std::pair{0, 1}, {31, 33}, {224, 288}, {255, 512}, {7, 7}}) {
      const auto part = tensor.row(1, begin, end);
      EXPECT_EQ(part, std::vector<float>(whole.begin() + begin, whole.begin() + end))
          << to_string(dtype);
    }
  }
}

TEST(ReadCodes, RuleOfTheLayoutGivesTheElementsExactly) {
  for (const DType dtype : test::all_dtypes()) {
    if (block_elements(dtype) == 1) continue;
    const CodeLayout layout = code_layout(dtype);
    const test::RandomTensor tensor(dtype, 1, 1024, 5);
    const auto row = tensor.row(0, 0, 1024);
    for (int64_t u = 0; u < 1024 / kUnit; ++u) {
      CodeUnit unit;
      read_codes(dtype, tensor.view().data, u, unit);
      for (int64_t i = 0; i < kUnit; ++i) {
        const int32_t code = unit.codes[i];
        if (has_nibbles(layout)) {
          EXPECT_LT(code, 16);
        }
        const auto q = static_cast<float>(code - code_centre(layout));
        const float scale =
            unit.scales[layout == CodeLayout::kByteSplitF32 && i >= kUnit / 2 ? 1 : 0];
        EXPECT_EQ(is_affine(layout) ? scale * q + unit.scales[1] : scale * q,
                  row[static_cast<size_t>(u * kUnit + i)])
            << to_string(dtype);
      }
    }
  }
}

}  // namespace
}  // namespace troupe
