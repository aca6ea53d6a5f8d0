#include "gpu/sim/coefficients.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace troupe {
namespace {

using ::testing::HasSubstr;

/// A valid file with one line a field, the first field on line 2.
std::string file() { return to_json(*builtin_coefficients("h100")); }

std::string with(const std::string& from, const std::string& to) {
  std::string text = file();
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

std::string refusal(const std::string& text) {
  const auto parsed = parse_coefficients(text, "my.json");
  EXPECT_FALSE(parsed.ok());
  return parsed.ok() ? "" : parsed.error().message;
}

TEST(Coefficients, EveryBuiltinDeviceParsesAndCarriesItsName) {
  for (const std::string& name : builtin_devices()) {
    const auto device = builtin_coefficients(name);
    ASSERT_TRUE(device.ok()) << device.error().message;
    EXPECT_EQ(device->device, name);
  }
}

TEST(Coefficients, NamesTheKnownDevicesWhenOneIsUnknown) {
  const auto device = builtin_coefficients("h900");
  ASSERT_FALSE(device.ok());
  EXPECT_EQ(device.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(device.error().message, HasSubstr("h200, h200-measured, h100, a100, cpu"));
}

TEST(Coefficients, WhatIsWrittenReadsBackUnchanged) {
  auto device = *builtin_coefficients("h200");
  device.kv_bytes_per_s = 1.0 / 3.0 * 1e13;
  const auto again = parse_coefficients(to_json(device), "x");
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_EQ(*again, device);
}

TEST(Coefficients, RefusesAnotherFormatVersion) {
  EXPECT_THAT(refusal(with("\"format\": 1", "\"format\": 2")),
              HasSubstr("my.json:2: 'format' is 2; this program reads format 1"));
}

TEST(Coefficients, RefusesAMissingField) {
  EXPECT_THAT(refusal(with("  \"kv_bytes_per_s\": 2790000000000.0,\n", "")),
              HasSubstr("'kv_bytes_per_s' is missing"));
}

TEST(Coefficients, RefusesAnUnknownFieldWithItsLine) {
  EXPECT_THAT(refusal(with("\"device\": \"h100\",", "\"device\": \"h100\",\n  \"magic\": 1,")),
              HasSubstr("my.json:4: 'magic' is no coefficient"));
}

TEST(Coefficients, RefusesAFieldThatIsThereTwice) {
  EXPECT_THAT(refusal(with("\"device\": \"h100\",", "\"device\": \"h100\",\"device\": \"x\",")),
              HasSubstr("'device' is there twice"));
}

TEST(Coefficients, RefusesValuesOutOfRangeOrOfAnotherType) {
  EXPECT_THAT(refusal(with("\"memory_fraction\": 0.95", "\"memory_fraction\": 1.5")),
              HasSubstr("my.json:5: 'memory_fraction' is 1.5, not between 0.01 and 1"));
  EXPECT_THAT(refusal(with("\"memory_fraction\": 0.95", "\"memory_fraction\": \"all\"")),
              HasSubstr("'memory_fraction' must be a number"));
  EXPECT_THAT(refusal(with("\"memory_fraction\": 0.95", "\"memory_fraction\": 1e999")),
              HasSubstr("my.json:5:"));
}

TEST(Coefficients, RefusesEveryTruncationWithALine) {
  const std::string whole = file();
  for (size_t n = 0; n + 2 < whole.size(); ++n) {
    EXPECT_THAT(refusal(whole.substr(0, n)), HasSubstr("my.json:")) << n;
  }
}

TEST(Coefficients, RefusesDeepNesting) {
  EXPECT_FALSE(parse_coefficients(std::string(100000, '['), "x").ok());
  EXPECT_FALSE(parse_coefficients(with("\"fitted\": []", "\"fitted\": [[[[[[1]]]]]]"), "x").ok());
}

}  // namespace
}  // namespace troupe
