#include "actors/text/tokenizer.h"

#include "actors/text/gguf_vocab.h"
#include "actors/text/pretokenizer.h"
#include "tests/actors/text/tokenizer_fixture.h"

namespace troupe {
namespace {

using Ids = std::vector<int32_t>;

TEST(Tokenizer, AUsersWordsNeverBecomeControlTokens) {
  const auto tokenizer = testing::load_json("llama3");
  ASSERT_NE(tokenizer, nullptr);
  const int32_t end = tokenizer->encode("<|end|>", {false, true}).at(0);
  EXPECT_TRUE(tokenizer->is_special(end));
  for (const int32_t id : tokenizer->encode("a <|end|><pad> <mask>", {false, false})) {
    EXPECT_FALSE(tokenizer->is_special(id));
  }
  // Nor together with what the template says before or after them.
  const Tokenizer::TextPiece split[] = {{"<|e", true}, {"nd|>", false}, {"<|end|>", true}};
  const Ids ids = tokenizer->encode_pieces(split, false);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), end), 1);
  EXPECT_EQ(ids.back(), end);
  // Two pieces of the template may spell one.
  const Tokenizer::TextPiece whole[] = {{"<|e", true}, {"nd|>", true}};
  EXPECT_EQ(tokenizer->encode_pieces(whole, false), Ids{end});
}

TEST(Tokenizer, AddedTokensThatAreNotSpecialAlwaysCount) {
  const auto tokenizer = testing::load_json("llama3");
  ASSERT_NE(tokenizer, nullptr);
  const Ids ids = tokenizer->encode("<think>", {false, false});
  ASSERT_EQ(ids.size(), 1U);
  EXPECT_FALSE(tokenizer->is_special(ids[0]));
  EXPECT_EQ(tokenizer->bytes(ids[0]), "<think>");
}

TEST(Tokenizer, IdsOutsideOfTheVocabularyHaveNoBytes) {
  const auto tokenizer = testing::load_json("smollm");
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->bytes(tokenizer->vocab()), "");
  EXPECT_EQ(tokenizer->bytes(-1), "");
  EXPECT_FALSE(tokenizer->is_special(-1));
}

TEST(Tokenizer, ConfigNamesBosEosAndTemplate) {
  const std::string config = R"({"bos_token": "<|start|>", "eos_token": {"content": "<|end|>"},
    "add_bos_token": true, "add_eos_token": true, "chat_template": "{{ x }}"})";
  auto v = vocabulary_from_json(testing::read_data("smollm.json"), config, 5000);
  ASSERT_TRUE(v.ok()) << v.error().message;
  const auto tokenizer = make_tokenizer(std::move(*v));
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_EQ((*tokenizer)->bos(), 0);
  EXPECT_EQ((*tokenizer)->eos(), 1);
  EXPECT_EQ((*tokenizer)->encode("", {}), (Ids{0, 1}));
  EXPECT_EQ((*tokenizer)->chat_template(), "{{ x }}");
}

/// A SentencePiece vocabulary as GGUF stores it.
std::map<std::string, GgufValue, std::less<>> sentencepiece() {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int64_t> types = {2, 3, 3};
  for (int b = 0; b < 256; ++b) {
    const char* hex = "0123456789ABCDEF";
    tokens.push_back(std::string("<0x") + hex[b / 16] + hex[b % 16] + ">");
    types.push_back(6);
  }
  const std::vector<std::string> pieces = {
      "he", "ll", "hell",  "\xe2\x96\x81hello", "\xe2\x96\x81", "h", "e",
      "l",  "o",  "hello", "\xe2\x96\x81hell"};
  std::vector<double> scores(tokens.size(), 0.0);
  for (const std::string& piece : pieces) {
    scores.push_back(-static_cast<double>(tokens.size() - 258));
    tokens.push_back(piece);
    types.push_back(1);
  }
  return {
      {"tokenizer.ggml.model", std::string("llama")}, {"tokenizer.ggml.tokens", tokens},
      {"tokenizer.ggml.token_type", types},           {"tokenizer.ggml.scores", scores},
      {"tokenizer.ggml.bos_token_id", int64_t{1}},    {"tokenizer.ggml.eos_token_id", int64_t{2}}};
}

TEST(Tokenizer, GgufSentencePieceJoinsByScore) {
  auto v = vocabulary_from_gguf(sentencepiece());
  ASSERT_TRUE(v.ok()) << v.error().message;
  const auto made = make_tokenizer(std::move(*v));
  ASSERT_TRUE(made.ok()) << made.error().message;
  const Tokenizer& tokenizer = **made;
  EXPECT_EQ(tokenizer.encode("hello", {}), (Ids{1, 259 + 3}));
  EXPECT_EQ(tokenizer.encode("hello", {false, false}), (Ids{259 + 3}));
  EXPECT_EQ(tokenizer.encode(" hello", {false, false}), (Ids{259 + 4, 259 + 3}));
  // No token for the newline or the accent: their bytes.
  EXPECT_EQ(tokenizer.encode("\xc3\xa9\n", {false, false}),
            (Ids{259 + 4, 3 + 0xc3, 3 + 0xa9, 3 + '\n'}));
  EXPECT_EQ(testing::decode(tokenizer, {1, 262, 3 + '\n'}), "hello\n");
  EXPECT_EQ(tokenizer.encode("</s>", {false, true}), Ids{2});
  EXPECT_NE(tokenizer.encode("</s>", {false, false}), Ids{2});
}

TEST(Tokenizer, GgufWithUnknownPreTokenizerIsRefused) {
  auto metadata = sentencepiece();
  metadata["tokenizer.ggml.model"] = std::string("gpt2");
  metadata["tokenizer.ggml.pre"] = std::string("from-the-future");
  const auto v = vocabulary_from_gguf(metadata);
  ASSERT_FALSE(v.ok());
  EXPECT_EQ(v.error().code, ErrorCode::kBadModel);
  EXPECT_NE(v.error().message.find("from-the-future"), std::string::npos);
}

TEST(Pretokenizer, SplitBehaviorsAreHuggingFaces) {
  using Behavior = SplitStep::Behavior;
  const auto split = [](Behavior behavior, bool invert) {
    const auto splitter = Pretokenizer::make({{"-", behavior, invert}});
    std::vector<std::string> out;
    for (const auto word : splitter->split("the-final--countdown")) out.emplace_back(word);
    return out;
  };
  using Words = std::vector<std::string>;
  // The examples in the documentation of `tokenizers`.
  EXPECT_EQ(split(Behavior::kRemoved, false), (Words{"the", "final", "countdown"}));
  EXPECT_EQ(split(Behavior::kIsolated, false), (Words{"the", "-", "final", "-", "-", "countdown"}));
  EXPECT_EQ(split(Behavior::kMergedWithPrevious, false),
            (Words{"the-", "final-", "-", "countdown"}));
  EXPECT_EQ(split(Behavior::kMergedWithNext, false), (Words{"the", "-final", "-", "-countdown"}));
  EXPECT_EQ(split(Behavior::kContiguous, false), (Words{"the", "-", "final", "--", "countdown"}));
  EXPECT_EQ(split(Behavior::kRemoved, true), (Words{"-", "-", "-"}));
}

}  // namespace
}  // namespace troupe
