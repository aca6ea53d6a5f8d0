#include "gpu/model/safetensors.h"
#include "tests/support/safetensors_writer.h"
#include "tests/support/temp_dir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace troupe::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class Safetensors : public ::testing::Test {
 protected:
  Result<std::unique_ptr<SafetensorsFile>> open(const std::string& bytes) {
    return SafetensorsFile::open(dir_.write("m.safetensors", bytes));
  }
  std::string refusal(const std::string& bytes) {
    const auto file = open(bytes);
    if (file.ok()) return "";
    EXPECT_EQ(file.error().code, ErrorCode::kBadModel) << file.error().message;
    EXPECT_THAT(file.error().message, HasSubstr("m.safetensors"));
    return file.error().message;
  }
  /// A file of `data_bytes` zeros after this header, padded to 8 bytes.
  std::string refusal(std::string header, size_t data_bytes) {
    header.resize((header.size() + 7) / 8 * 8, ' ');
    return refusal(safetensors_bytes(header, std::string(data_bytes, '\0')));
  }
  TempDir dir_;
};

std::string sample() {
  SafetensorsWriter w;
  w.tensor("a", "F32", {2, 3}, std::string(24, 'a'));
  w.tensor("b", "BF16", {4}, std::string(8, 'b'));
  w.tensor("c", "F16", {}, std::string(2, 'c'));
  w.tensor("d", "I8", {6}, std::string(6, 'd'));
  w.tensor("e", "F32", {0, 3}, "");
  return w.bytes();
}

TEST_F(Safetensors, ReadsTensors) {
  const auto file = open(sample());
  ASSERT_TRUE(file.ok()) << file.error().message;
  const auto& tensors = (*file)->tensors();
  EXPECT_EQ(tensors.size(), 4U);
  EXPECT_EQ(tensors.at("a").dtype, DType::kF32);
  EXPECT_EQ(tensors.at("a").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(tensors.at("a").data[23], std::byte{'a'});
  EXPECT_EQ(tensors.at("b").dtype, DType::kBF16);
  EXPECT_EQ(tensors.at("b").data[0], std::byte{'b'});
  EXPECT_TRUE(tensors.at("c").shape.empty());
  EXPECT_EQ(tensors.at("e").bytes, 0);
  EXPECT_EQ((*file)->unsupported().at("d"), "I8");
}

TEST_F(Safetensors, AnEmptyHeaderIsAFileWithoutTensors) {
  const auto file = open(safetensors_bytes("{}", ""));
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_TRUE((*file)->tensors().empty());
}

TEST_F(Safetensors, RefusesHeaderLengths) {
  EXPECT_THAT(refusal(""), HasSubstr("empty"));
  EXPECT_THAT(refusal(std::string(7, 'x')), HasSubstr("too short"));
  for (const uint64_t n : {uint64_t{0}, uint64_t{1}, uint64_t{100}, uint64_t{100'000'001},
                           uint64_t{1} << 63, ~uint64_t{0}}) {
    std::string bytes = sample().substr(0, 50);
    std::memcpy(bytes.data(), &n, sizeof n);
    EXPECT_THAT(refusal(bytes), HasSubstr("header of")) << n;
  }
}

TEST_F(Safetensors, RefusesHeadersThatAreNoHeader) {
  for (const char* header :
       {"[]",
        " {}",
        "\xef\xbb\xbf{}",
        "{",
        "{}}",
        "{\"a\":1}",
        "{\"a\":[]}",
        "{\"a\":null}",
        "{\"a\":{}}",
        "{\"a\":{\"dtype\":\"F32\"}}",
        "{\"\xff\":{}}",
        "{\"__metadata__\":{\"a\":{}}}",
        "{\"__metadata__\":{\"a\":1}}",
        "{\"__metadata__\":[]}",
        R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}})",
        R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":"F32","shape":"1","data_offsets":[0,4]}})",
        R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})"}) {
    EXPECT_NE(refusal(header, 4), "") << header;
  }
}

TEST_F(Safetensors, DeepNestingIsRefusedWhereItBegins) {
  EXPECT_NE(refusal("{\"a\":" + std::string(200000, '['), 0), "");
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  EXPECT_NE(refusal(objects, 0), "");
}

TEST_F(Safetensors, RefusesDataThatIsNotThere) {
  const auto with = [&](const std::string& shape, const std::string& offsets) {
    return refusal(
        R"({"a":{"dtype":"F32","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}", 8);
  };
  EXPECT_EQ(with("[2]", "[0,8]"), "");
  EXPECT_THAT(with("[2]", "[8,0]"), HasSubstr("'a'"));
  EXPECT_THAT(with("[3]", "[0,12]"), HasSubstr("does not lie in the file"));
  EXPECT_THAT(with("[2]", "[-8,0]"), HasSubstr("negative"));
  EXPECT_THAT(with("[2]", "[0]"), HasSubstr("'a'"));
  EXPECT_THAT(with("[2]", "[0,8,8]"), HasSubstr("'a'"));
  EXPECT_THAT(with("[2]", "[0,18446744073709551615]"), HasSubstr("does not lie"));
  EXPECT_THAT(with("[2]", "[0,18446744073709551624]"), HasSubstr("'a'"));  // 2^64 + 8
  EXPECT_THAT(with("[3]", "[0,8]"), HasSubstr("shape does not match"));
  EXPECT_THAT(with("[1]", "[0,8]"), HasSubstr("shape does not match"));
  // 4194305 * 4194305 * 211106198978564 wraps to 4 in 64 bits.
  EXPECT_THAT(with("[4194305,4194305,211106198978564]", "[0,4]"), HasSubstr("shape does not"));
  EXPECT_THAT(with("[9223372036854775808,2]", "[0,0]"), HasSubstr("shape does not match"));
  EXPECT_THAT(with("[1]", "[4,8]"), HasSubstr("gap"));
  EXPECT_THAT(with("[1]", "[0,4]"), HasSubstr("bytes after"));
  EXPECT_THAT(with("[2]", "[0,8]},\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[8,8]"),
              HasSubstr("'a' occurs twice"));
  EXPECT_THAT(with("[2]", "[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]"),
              HasSubstr("overlaps"));
}

TEST_F(Safetensors, UnknownTypesAndUnalignedDataAreNamed) {
  EXPECT_THAT(refusal(R"({"w":{"dtype":"Q9","shape":[1],"data_offsets":[0,4]}})", 4),
              AllOf(HasSubstr("'w'"), HasSubstr("'Q9'")));
  std::string header = R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  header.resize((header.size() + 7) / 8 * 8 + 1, ' ');
  EXPECT_THAT(refusal(safetensors_bytes(header, "1234")), HasSubstr("not aligned"));
}

TEST_F(Safetensors, EveryTruncationIsRefused) {
  const std::string whole = sample();
  for (size_t n = 0; n < whole.size(); ++n) EXPECT_NE(refusal(whole.substr(0, n)), "") << n;
}

TEST_F(Safetensors, EveryChangedByteIsSurvived) {
  const std::string whole = sample();
  for (size_t i = 0; i + 40 < whole.size(); ++i) {
    for (const int flip : {0x01, 0x10, 0x80, 0xff}) {
      std::string bytes = whole;
      bytes[i] = static_cast<char>(bytes[i] ^ flip);
      const auto file = open(bytes);
      if (!file.ok()) continue;
      int64_t total = 0;
      for (const auto& [name, view] : (*file)->tensors()) {
        total += view.bytes;
        if (view.bytes == 0) continue;
        volatile std::byte last = view.data[view.bytes - 1];
        (void)last;
      }
      EXPECT_LE(total, 40);
    }
  }
}

}  // namespace
}  // namespace troupe::test
