#include "actors/text/incremental_decoder.h"

#include "actors/text/utf8.h"
#include "tests/actors/text/tokenizer_fixture.h"

namespace troupe {
namespace {

/// All bytes first, then UTF-8 a character at a time: what decoding at once means.
std::string naive(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
  std::string bytes;
  for (const int32_t id : ids) {
    if (!skip_special || !tokenizer.is_special(id)) bytes += tokenizer.bytes(id);
  }
  if (tokenizer.strips_leading_space() && bytes.starts_with(' ')) bytes.erase(0, 1);
  std::string text;
  utf8_take_complete(bytes, text);
  return bytes.empty() ? text : text + "\xef\xbf\xbd";
}

TEST(IncrementalDecoder, ConcatenatesToTheWholeForRandomTokens) {
  std::mt19937 rng(11);
  for (const char* name : {"llama3", "llama2"}) {
    const auto tokenizer = testing::load_json(name);
    ASSERT_NE(tokenizer, nullptr);
    for (int round = 0; round < 500; ++round) {
      std::vector<int32_t> ids;
      // Many single bytes (low ids in both), so that characters break in every way.
      for (size_t i = rng() % 40; i > 0; --i) {
        const auto limit = static_cast<uint32_t>(rng() % 3 == 0 ? tokenizer->vocab() + 5 : 258);
        ids.push_back(static_cast<int32_t>(rng() % limit));
      }
      for (const bool skip : {false, true}) {
        IncrementalDecoder decoder(*tokenizer, skip);
        std::string text;
        for (const int32_t id : ids) {
          const std::string part = decoder.push(id);
          ASSERT_EQ(utf8_valid_prefix(part), part.size());
          text += part;
        }
        ASSERT_EQ(text + decoder.flush(), naive(*tokenizer, ids, skip));
      }
    }
  }
}

TEST(IncrementalDecoder, HoldsHalfACharacterBack) {
  const auto tokenizer = testing::load_json("llama2");
  ASSERT_NE(tokenizer, nullptr);
  const auto byte = [](int b) { return 3 + b; };  // <0x00> has id 3
  IncrementalDecoder decoder(*tokenizer, true);
  EXPECT_EQ(decoder.push(byte(0xf0)), "");
  EXPECT_EQ(decoder.push(byte(0x9f)), "");
  EXPECT_EQ(decoder.push(byte(0x91)), "");
  EXPECT_EQ(decoder.push(byte(0x8d)), "\xf0\x9f\x91\x8d");
  EXPECT_EQ(decoder.push(byte(0xe2)), "");
  EXPECT_EQ(decoder.push(byte('a')),
            "\xef\xbf\xbd"
            "a");
  EXPECT_EQ(decoder.push(byte(0x80)), "\xef\xbf\xbd");
  EXPECT_EQ(decoder.push(byte(0xe2)), "");
  EXPECT_EQ(decoder.flush(), "\xef\xbf\xbd");
  EXPECT_EQ(decoder.flush(), "");
}

TEST(Utf8, RefusesOverlongFormsSurrogatesAndBeyondUnicode) {
  for (const std::string& bad :
       std::vector<std::string>{"\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80",
                                "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\x80", "\xff"}) {
    EXPECT_EQ(utf8_valid_prefix(bad), 0U);
    std::string bytes = bad;
    std::string text;
    utf8_take_complete(bytes, text);
    EXPECT_EQ(text.size(), 3 * bad.size()) << "one U+FFFD for each byte";
    EXPECT_TRUE(bytes.empty());
  }
}

}  // namespace
}  // namespace troupe
