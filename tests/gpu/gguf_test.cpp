#include "gpu/model/gguf.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <limits>

namespace troupe::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class Gguf : public ::testing::Test {
 protected:
  Result<std::unique_ptr<GgufFile>> open(const std::string& bytes) {
    return GgufFile::open(dir_.write("m.gguf", bytes));
  }
  /// The message of the refusal; empty when the file is accepted.
  std::string refusal(const std::string& bytes) {
    const auto file = open(bytes);
    if (file.ok()) return "";
    EXPECT_EQ(file.error().code, ErrorCode::kBadModel) << file.error().message;
    EXPECT_THAT(file.error().message, HasSubstr("m.gguf"));
    return file.error().message;
  }
  TempDir dir_;
};

/// A small file with every kind of value and tensors of plain and block types.
GgufWriter sample() {
  GgufWriter w;
  w.kv("u8", uint8_t{255});
  w.kv("i8", int8_t{-128});
  w.kv("u16", uint16_t{65535});
  w.kv("i16", int16_t{-32768});
  w.kv("u32", uint32_t{4294967295U});
  w.kv("i32", int32_t{-5});
  w.kv("u64", uint64_t{1} << 62);
  w.kv("i64", std::numeric_limits<int64_t>::min());
  w.kv("f32", 0.5F);
  w.kv("f64", 1e300);
  w.kv("yes", true);
  w.kv("text", std::string_view("a\0b", 3));
  w.kv("texts", std::vector<std::string>{"", "x", std::string(40, 'y')});
  w.kv("ints", std::vector<int32_t>{-1, 2});
  w.kv("floats", std::vector<float>{1.5F});
  w.kv("bools", std::vector<bool>{true, false});
  w.kv("none", std::vector<std::string>{});
  w.tensor("a", DType::kF32, {2, 3}, encode({1, 2, 3, 4, 5, 6}, DType::kF32));
  w.tensor("b", DType::kQ4_1, {3, 64}, std::string(3 * 40, '\1'));
  return w;
}

TEST_F(Gguf, ReadsEveryKindOfValue) {
  const auto file = open(sample().bytes());
  ASSERT_TRUE(file.ok()) << file.error().message;
  const GgufFile& f = **file;
  EXPECT_EQ(*f.get<int64_t>("u8"), 255);
  EXPECT_EQ(*f.get<int64_t>("i8"), -128);
  EXPECT_EQ(*f.get<int64_t>("u16"), 65535);
  EXPECT_EQ(*f.get<int64_t>("i16"), -32768);
  EXPECT_EQ(*f.get<int64_t>("u32"), 4294967295);
  EXPECT_EQ(*f.get<int64_t>("i32"), -5);
  EXPECT_EQ(*f.get<int64_t>("u64"), int64_t{1} << 62);
  EXPECT_EQ(*f.get<int64_t>("i64"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(*f.get<double>("f32"), 0.5);
  EXPECT_EQ(*f.get<double>("f64"), 1e300);
  EXPECT_TRUE(*f.get<bool>("yes"));
  EXPECT_EQ(*f.get<std::string>("text"), std::string("a\0b", 3));
  EXPECT_EQ(*f.get<std::vector<std::string>>("texts"),
            (std::vector<std::string>{"", "x", std::string(40, 'y')}));
  EXPECT_EQ(*f.get<std::vector<int64_t>>("ints"), (std::vector<int64_t>{-1, 2}));
  EXPECT_EQ(*f.get<std::vector<double>>("floats"), (std::vector<double>{1.5}));
  EXPECT_EQ(*f.get<std::vector<bool>>("bools"), (std::vector<bool>{true, false}));
  EXPECT_TRUE(f.get<std::vector<std::string>>("none")->empty());
  EXPECT_EQ(f.get<double>("u8"), nullptr);  // of another kind
  EXPECT_EQ(f.get<int64_t>("absent"), nullptr);
}

TEST_F(Gguf, TensorsAreRowMajorViewsIntoTheFile) {
  const auto file = open(sample().bytes());
  ASSERT_TRUE(file.ok()) << file.error().message;
  const TensorView& a = (*file)->tensors().at("a");
  EXPECT_EQ(a.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(a.bytes, 24);
  float last = 0;
  std::memcpy(&last, a.data + 20, sizeof last);
  EXPECT_EQ(last, 6.0F);
  const TensorView& b = (*file)->tensors().at("b");
  EXPECT_EQ(b.dtype, DType::kQ4_1);
  EXPECT_EQ(b.rows(), 3);
  EXPECT_EQ(b.row_bytes(), 40);
  EXPECT_EQ(b.bytes, 120);
}

TEST_F(Gguf, VersionsTwoAndThreeOnly) {
  for (const uint32_t version : {0U, 1U, 2U, 3U, 4U, 0x03000000U}) {
    GgufWriter w = sample();
    w.version = version;
    const std::string said = refusal(w.bytes());
    EXPECT_EQ(said.empty(), version == 2 || version == 3) << version << said;
  }
  GgufWriter big = sample();
  big.version = 0x03000000U;
  EXPECT_THAT(refusal(big.bytes()), HasSubstr("big-endian"));
}

TEST_F(Gguf, MissingUnreadableAndOtherFiles) {
  EXPECT_EQ(GgufFile::open(dir_ / "absent").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(GgufFile::open(dir_.path()).error().code, ErrorCode::kBadModel);  // a directory
  EXPECT_THAT(refusal(""), HasSubstr("empty"));
  EXPECT_THAT(refusal("GGU"), HasSubstr("not a GGUF file"));
  EXPECT_THAT(refusal("<html>not found</html>"), HasSubstr("not a GGUF file"));
}

TEST_F(Gguf, RefusesCountsNoFileCanHold) {
  for (const uint64_t n : {uint64_t{1} << 20, uint64_t{1} << 63, ~uint64_t{0}}) {
    ByteWriter keys;
    keys.raw("GGUF").put(uint32_t{3}).put(uint64_t{0}).put(n);
    EXPECT_NE(refusal(keys.bytes()), "") << n;
    ByteWriter tensors;
    tensors.raw("GGUF").put(uint32_t{3}).put(n).put(uint64_t{0});
    EXPECT_NE(refusal(tensors.bytes()), "") << n;
  }
}

TEST_F(Gguf, RefusesLengthsPastTheEnd) {
  for (const uint64_t n : {uint64_t{100}, uint64_t{1} << 61, uint64_t{1} << 63, ~uint64_t{0}}) {
    GgufWriter text;
    text.kv_raw("long", kString, ByteWriter().put(n).raw("abc").bytes());
    EXPECT_THAT(refusal(text.bytes()), HasSubstr("'long'")) << n;
    for (const uint32_t type : {kU8, kU16, kI32, kF32, kBool, kString, kU64, kF64}) {
      GgufWriter array;
      array.kv_raw("list", kArray, ByteWriter().put(type).put(n).raw("abc").bytes());
      EXPECT_THAT(refusal(array.bytes()), HasSubstr("'list'")) << n << " of type " << type;
    }
  }
}

TEST_F(Gguf, RefusesBadMetadata) {
  const auto with = [&](uint32_t type, const ByteWriter& value) {
    GgufWriter w;
    w.kv_raw("key", type, value.bytes());
    return refusal(w.bytes());
  };
  EXPECT_THAT(with(13, ByteWriter().put(uint64_t{0})), HasSubstr("unknown value type 13"));
  EXPECT_THAT(with(~0U, ByteWriter().put(uint64_t{0})), HasSubstr("'key'"));
  EXPECT_THAT(with(kArray, ByteWriter().put(uint32_t{kArray}).put(uint64_t{0})),
              HasSubstr("arrays of arrays"));
  EXPECT_THAT(with(kArray, ByteWriter().put(uint32_t{77}).put(uint64_t{0})),
              HasSubstr("unknown element type 77"));
  EXPECT_THAT(with(kBool, ByteWriter().put(uint8_t{2})), HasSubstr("truth value is 2"));
  EXPECT_THAT(with(kU64, ByteWriter().put(uint64_t{1} << 63)), HasSubstr("too large"));
  GgufWriter twice;
  twice.kv("k", 1U);
  twice.kv("k", 1U);
  EXPECT_THAT(refusal(twice.bytes()), HasSubstr("'k' occurs twice"));
}

TEST_F(Gguf, AlignmentIsAPowerOfTwoFromEight) {
  for (const uint32_t alignment : {0U, 1U, 3U, 4U, 24U, 33U, 0x80000001U}) {
    GgufWriter w = sample();
    w.kv("general.alignment", alignment);
    EXPECT_THAT(refusal(w.bytes()), HasSubstr("general.alignment")) << alignment;
  }
  GgufWriter text = sample();
  text.kv("general.alignment", "32");
  EXPECT_THAT(refusal(text.bytes()), HasSubstr("general.alignment"));
  for (const uint32_t alignment : {8U, 64U, 4096U}) {
    GgufWriter w;
    w.alignment = alignment;
    w.kv("general.alignment", alignment);
    w.tensor("a", DType::kF32, {1}, encode({7}, DType::kF32));
    w.tensor("b", DType::kF32, {1}, encode({8}, DType::kF32));
    const auto file = open(w.bytes());
    ASSERT_TRUE(file.ok()) << file.error().message;
    float b = 0;
    std::memcpy(&b, (*file)->tensors().at("b").data, sizeof b);
    EXPECT_EQ(b, 8.0F);
  }
  GgufWriter huge = sample();
  huge.kv("general.alignment", uint32_t{1} << 31);
  EXPECT_NE(refusal(huge.bytes()), "");
}

TEST_F(Gguf, RefusesBadTensors) {
  const auto with = [&](uint32_t type, const std::vector<uint64_t>& dims, uint64_t offset) {
    GgufWriter w;
    w.tensor_raw("blk.0.x", type, dims, offset, std::string(256, '\0'));
    return refusal(w.bytes());
  };
  EXPECT_EQ(with(0, {8, 8}, 0), "");
  EXPECT_THAT(with(0, {}, 0), AllOf(HasSubstr("'blk.0.x'"), HasSubstr("0 dimensions")));
  EXPECT_THAT(with(0, {1, 1, 1, 1, 1}, 0), HasSubstr("5 dimensions"));
  EXPECT_THAT(with(0, {8, 0}, 0), HasSubstr("zero or overflow"));
  EXPECT_THAT(with(0, {1ULL << 32, 1ULL << 32}, 0), HasSubstr("zero or overflow"));
  EXPECT_THAT(with(0, {4194305, 4194305, 211106198978564}, 0), HasSubstr("overflow"));
  EXPECT_THAT(with(0, {1ULL << 62}, 0), HasSubstr("size overflows"));
  EXPECT_THAT(with(0, {~0ULL}, 0), HasSubstr("overflow"));
  EXPECT_THAT(with(3, {33, 1}, 0), HasSubstr("multiple of the block of Q4_1"));
  EXPECT_THAT(with(0, {8, 9}, 0), HasSubstr("past the end"));
  EXPECT_THAT(with(0, {8, 8}, 32), HasSubstr("past the end"));
  EXPECT_THAT(with(0, {1}, 4), HasSubstr("not aligned"));
  EXPECT_THAT(with(0, {1}, ~0ULL - 31), HasSubstr("past the end"));
  EXPECT_THAT(with(10, {256}, 0), AllOf(HasSubstr("Q2_K"), HasSubstr("use a file in")));
  EXPECT_THAT(with(4, {32}, 0), HasSubstr("type 4 is not supported"));
  EXPECT_THAT(with(~0U, {32}, 0), HasSubstr("type 4294967295 is not supported"));
}

TEST_F(Gguf, RefusesTensorsTwiceOrOverlapping) {
  GgufWriter twice;
  twice.tensor("t", DType::kF32, {1}, encode({1}, DType::kF32));
  twice.tensor("t", DType::kF32, {1}, encode({1}, DType::kF32));
  EXPECT_THAT(refusal(twice.bytes()), HasSubstr("'t' occurs twice"));
  GgufWriter overlap;
  overlap.tensor_raw("s", 0, {9}, 0, std::string(36, '\0'));
  overlap.tensor_raw("t", 0, {1}, 32, "");
  EXPECT_THAT(refusal(overlap.bytes()), HasSubstr("overlaps"));
}

TEST_F(Gguf, NamesInMessagesArePrintable) {
  GgufWriter w;
  w.tensor_raw("\x1b[31m\n" + std::string(1000, 'x'), 99, {1}, 0, "");
  const std::string said = refusal(w.bytes());
  EXPECT_THAT(said, HasSubstr("?[31m?xxx")) << said;
  EXPECT_LT(said.size(), 400U);
}

// Whatever is cut off, the file is refused: the last byte of the last tensor is needed.
TEST_F(Gguf, EveryTruncationIsRefused) {
  GgufWriter w = sample();
  std::string whole = w.bytes();
  whole.resize(whole.size() - 8);  // the padding behind the last tensor (120 = 128 - 8 bytes)
  ASSERT_EQ(refusal(whole), "");
  for (size_t n = 0; n < whole.size(); ++n) {
    EXPECT_NE(refusal(whole.substr(0, n)), "") << n << " of " << whole.size();
  }
}

// Any byte changed: accepted or refused, and what is accepted lies inside the file.
TEST_F(Gguf, EveryChangedByteIsSurvived) {
  GgufWriter w = sample();
  const std::string whole = w.bytes();
  for (size_t i = 0; i < w.header().size(); ++i) {
    for (const int flip : {0x01, 0x80, 0xff}) {
      std::string bytes = whole;
      bytes[i] = static_cast<char>(bytes[i] ^ flip);
      const auto file = open(bytes);
      if (!file.ok()) continue;
      for (const auto& [name, view] : (*file)->tensors()) {
        int64_t n = 1;
        for (const int64_t d : view.shape) n *= d;
        EXPECT_EQ(view.bytes, n / block_elements(view.dtype) * block_bytes(view.dtype));
        volatile std::byte last = view.data[view.bytes - 1];
        (void)last;
      }
    }
  }
}

TEST(GgufDefaultModel, HasItsTensorsAndParsesFast) {
  const char* path = std::getenv("TROUPE_TEST_MODEL");
  if (path == nullptr) GTEST_SKIP() << "set TROUPE_TEST_MODEL to SmolLM2-135M-Instruct.Q4_1.gguf";
  const auto start = std::chrono::steady_clock::now();
  const auto file = GgufFile::open(path);
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
  RecordProperty("parse_ms", std::to_string(took.count()));
  ASSERT_TRUE(file.ok()) << file.error().message;
  int q4_1 = 0;
  int f32 = 0;
  for (const auto& [name, view] : (*file)->tensors()) {
    q4_1 += view.dtype == DType::kQ4_1 ? 1 : 0;
    f32 += view.dtype == DType::kF32 ? 1 : 0;
  }
  EXPECT_EQ((*file)->tensors().size(), 272U);
  EXPECT_EQ(q4_1, 210);
  EXPECT_EQ(f32, 61);
  EXPECT_EQ((*file)->tensors().at("token_embd.weight").dtype, DType::kQ8_0);
  EXPECT_EQ((*file)->get<std::vector<std::string>>("tokenizer.ggml.tokens")->size(), 49152U);
  EXPECT_EQ((*file)->get<std::vector<std::string>>("tokenizer.ggml.merges")->size(), 48900U);
}

}  // namespace
}  // namespace troupe::test
