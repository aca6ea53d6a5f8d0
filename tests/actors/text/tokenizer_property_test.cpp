#include "actors/text/bpe.h"
#include "actors/text/pretokenizer.h"
#include "tests/actors/text/tokenizer_fixture.h"

#include <algorithm>
#include <map>

namespace troupe {
namespace {

std::string bytes_of(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  std::string bytes;
  for (const int32_t id : ids) bytes += tokenizer.bytes(id);
  return bytes;
}

constexpr Tokenizer::EncodeOptions kPlain{false, false};

TEST(TokenizerProperty, ByteLevelRoundTripsAnything) {
  std::mt19937 rng(3);
  for (const char* name : {"llama3", "smollm"}) {
    const auto tokenizer = testing::load_json(name);
    ASSERT_NE(tokenizer, nullptr);
    for (int round = 0; round < 500; ++round) {
      std::string bytes;
      for (size_t i = rng() % 80; i > 0; --i) bytes += static_cast<char>(rng());
      ASSERT_EQ(bytes_of(*tokenizer, tokenizer->encode(bytes, kPlain)), bytes);
      const std::string text = testing::random_utf8(rng, 60);
      const auto ids = tokenizer->encode(text, kPlain);
      ASSERT_EQ(bytes_of(*tokenizer, ids), text);
      ASSERT_EQ(testing::decode(*tokenizer, ids), text);
    }
  }
}

TEST(TokenizerProperty, SentencePieceRoundTripsTextWithoutMarks) {
  std::mt19937 rng(4);
  const auto tokenizer = testing::load_json("llama2");
  ASSERT_NE(tokenizer, nullptr);
  for (int round = 0; round < 500; ++round) {
    const std::string text = testing::random_utf8(rng, 60);
    ASSERT_EQ(testing::decode(*tokenizer, tokenizer->encode(text, kPlain)), text);
  }
  EXPECT_FALSE(tokenizer->encode("bytes \xff\xc3", kPlain).empty());
}

TEST(TokenizerProperty, PiecesEncodeAsTheirConcatenation) {
  std::mt19937 rng(5);
  const auto tokenizer = testing::load_json("llama3");
  ASSERT_NE(tokenizer, nullptr);
  for (int round = 0; round < 300; ++round) {
    const std::string a = testing::random_utf8(rng, 10);
    const std::string b = testing::random_utf8(rng, 10);
    const Tokenizer::TextPiece pieces[] = {{a, true}, {b, false}};
    ASSERT_EQ(tokenizer->encode_pieces(pieces, true), tokenizer->encode(a + b, {true, false}));
  }
}

/// Joins the best pair of the whole word until there is none: the definition, O(n^2).
std::vector<int32_t> naive_bpe(const Vocabulary& v, const std::string& word) {
  std::map<std::string, int32_t> ids;
  for (size_t i = 0; i < v.tokens.size(); ++i) ids[v.tokens[i]] = static_cast<int32_t>(i);
  std::map<std::pair<std::string, std::string>, size_t> ranks;
  for (size_t i = 0; i < v.merges.size(); ++i) ranks[v.merges[i]] = i;
  std::vector<std::string> parts;
  for (const char c : word) parts.emplace_back(1, c);
  for (;;) {
    size_t best = v.merges.size();
    size_t where = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto it = ranks.find({parts[i], parts[i + 1]});
      if (it != ranks.end() && it->second < best) {
        best = it->second;
        where = i;
      }
    }
    if (best == v.merges.size()) break;
    parts[where] += parts[where + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(where) + 1);
  }
  std::vector<int32_t> out;
  for (const std::string& part : parts) out.push_back(ids.at(part));
  return out;
}

TEST(TokenizerProperty, MergingEqualsTheDefinition) {
  std::mt19937 rng(6);
  for (int round = 0; round < 200; ++round) {
    Vocabulary v;
    v.tokens = {"?", "a", "b", "c"};
    v.unknown = 0;
    for (int i = 0; i < 12; ++i) {
      const std::string left = v.tokens[1 + rng() % (v.tokens.size() - 1)];
      const std::string right = v.tokens[1 + rng() % (v.tokens.size() - 1)];
      if (std::find(v.tokens.begin(), v.tokens.end(), left + right) != v.tokens.end()) continue;
      v.tokens.push_back(left + right);
      v.merges.emplace_back(left, right);
    }
    std::shuffle(v.merges.begin(), v.merges.end(), rng);
    v.outside_bpe.resize(v.tokens.size());
    const auto bpe = Bpe::make(v, v.tokens);
    ASSERT_TRUE(bpe.ok()) << bpe.error().message;
    Bpe::Scratch scratch;
    for (int i = 0; i < 20; ++i) {
      std::string word;
      for (size_t n = 1 + rng() % 40; n > 0; --n) word += static_cast<char>('a' + rng() % 3);
      std::vector<int32_t> got;
      bpe->encode(word, got, scratch);
      ASSERT_EQ(got, naive_bpe(v, word)) << word;
    }
  }
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kSlowdown = 10;  // of sanitizers: they look for other bugs
#else
constexpr size_t kSlowdown = 1;
#endif

TEST(TokenizerProperty, LongRunsOfAnythingEncode) {
  // A quadratic step would need many minutes here: the test's time limit is the assertion.
  for (const char* name : {"llama3", "qwen2", "smollm", "llama2", "metaspace"}) {
    const auto tokenizer = testing::load_json(name);
    ASSERT_NE(tokenizer, nullptr);
    for (const std::string& unit : std::vector<std::string>{"a", " ", "\n", "1", "!", " a",
                                                            "\xcc\x81", "<", "<|end|", "\r\n "}) {
      const size_t size = (unit == "a" ? 1'000'000 : 100'000) / kSlowdown;
      std::string text = "x";
      while (text.size() < size) text += unit;
      text += 'x';
      const auto ids = tokenizer->encode(text, kPlain);
      EXPECT_TRUE(testing::decode(*tokenizer, ids) == text) << name << " '" << unit << "'";
    }
  }
}

TEST(TokenizerProperty, ARegexThatGivesUpLosesNothing) {
  // Nested quantifiers backtrack exponentially, a captured group needs stack for every round.
  for (const std::string& regex :
       std::vector<std::string>{"(a+)+$", "(?:(a|b)\\1?)*c", "(a|ab)(c|bcd)*d", "(x+x+)+y"}) {
    const auto splitter = Pretokenizer::make({{regex}});
    ASSERT_TRUE(splitter.ok());
    const std::string text = std::string(20'000, 'a') + std::string(20'000, 'x') + "b";
    std::string joined;
    for (const std::string_view word : splitter->split(text)) joined += word;
    EXPECT_TRUE(joined == text) << regex;
  }
}

}  // namespace
}  // namespace troupe
