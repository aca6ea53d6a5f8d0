#include "actors/text/gguf_vocab.h"
#include "tests/actors/text/tokenizer_fixture.h"

#include <functional>

namespace troupe {
namespace {

using Json = nlohmann::json;

/// smollm.json after `damage`.
Result<std::shared_ptr<const Tokenizer>> damaged(const std::function<void(Json&)>& damage) {
  Json json = Json::parse(testing::read_data("smollm.json"));
  damage(json);
  auto v = vocabulary_from_json(json.dump(), "", 5000);
  if (!v) return v.error();
  return make_tokenizer(std::move(*v));
}

TEST(HostileTokenizer, EveryDamageIsRefused) {
  const std::pair<const char*, std::function<void(Json&)>> damages[] = {
      {"id beyond the model", [](Json& j) { j["model"]["vocab"]["zz"] = 5000; }},
      {"negative id", [](Json& j) { j["model"]["vocab"]["zz"] = -1; }},
      {"huge id", [](Json& j) { j["model"]["vocab"]["zz"] = uint64_t{1} << 63U; }},
      {"fractional id", [](Json& j) { j["model"]["vocab"]["zz"] = 1.5; }},
      {"one id twice", [](Json& j) { j["model"]["vocab"]["zz"] = 5; }},
      {"empty token", [](Json& j) { j["model"]["vocab"][""] = 4000; }},
      {"missing bytes", [](Json& j) { j["model"]["vocab"].erase("!"); }},
      {"no vocabulary", [](Json& j) { j["model"]["vocab"] = Json::object(); }},
      {"vocabulary is a list", [](Json& j) { j["model"]["vocab"] = Json::array({1}); }},
      {"merge of unknown tokens",
       [](Json& j) {
         j["model"]["merges"].push_back({"q!", "q!"});
       }},
      {"merge into an unknown token",
       [](Json& j) {
         j["model"]["merges"].push_back({"!", "~"});
       }},
      {"merge with nothing: a cycle",
       [](Json& j) {
         j["model"]["merges"].push_back({"", "a"});
       }},
      {"merge of three", [](Json& j) { j["model"]["merges"].push_back("a b c"); }},
      {"merge of numbers",
       [](Json& j) {
         j["model"]["merges"].push_back({1, 2});
       }},
      {"no merges", [](Json& j) { j["model"].erase("merges"); }},
      {"model of another kind", [](Json& j) { j["model"]["type"] = "Unigram"; }},
      {"added token beyond the model", [](Json& j) { j["added_tokens"][0]["id"] = 5000; }},
      {"added token over another", [](Json& j) { j["added_tokens"][0]["id"] = 7; }},
      {"added token without text", [](Json& j) { j["added_tokens"][0]["content"] = ""; }},
      {"added token is a number", [](Json& j) { j["added_tokens"].push_back(3); }},
      {"unknown normalizer",
       [](Json& j) {
         j["normalizer"] = {{"type", "Magic"}};
       }},
      {"unknown pre-tokenizer",
       [](Json& j) {
         j["pre_tokenizer"] = {{"type", "Magic"}};
       }},
      {"broken regex",
       [](Json& j) {
         j["pre_tokenizer"]["pretokenizers"][0] = {
             {"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", "(["}}}};
       }},
      {"unknown behavior",
       [](Json& j) {
         j["pre_tokenizer"]["pretokenizers"][0] = {
             {"type", "Split"}, {"behavior", "Eaten"}, {"pattern", {{"Regex", "a"}}}};
       }},
      {"post-processor with an unknown token",
       [](Json& j) {
         j["post_processor"] = {{"type", "TemplateProcessing"},
                                {"single", {{{"SpecialToken", {{"id", "<nope>"}}}}}}};
       }},
  };
  ASSERT_TRUE(damaged([](Json&) {}).ok());
  for (const auto& [what, damage] : damages) {
    const auto tokenizer = damaged(damage);
    EXPECT_FALSE(tokenizer.ok()) << what;
    if (tokenizer.ok()) continue;
    EXPECT_EQ(tokenizer.error().code, ErrorCode::kBadModel) << what;
  }
}

TEST(HostileTokenizer, TextThatIsNoTokenizerIsRefused) {
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("{"), std::string("{}"),
        std::string(1'000'000, '['), std::string("null")}) {
    EXPECT_FALSE(vocabulary_from_json(text, "", 5000).ok());
  }
  EXPECT_FALSE(vocabulary_from_json(testing::read_data("smollm.json"), "[", 5000).ok());
}

TEST(HostileTokenizer, FlippedBytesNeverCrash) {
  const std::string good = testing::read_data("llama2.json");
  std::mt19937 rng(13);
  for (int round = 0; round < 150; ++round) {
    std::string bad = good;
    for (size_t i = 1 + rng() % 4; i > 0; --i) bad[rng() % bad.size()] = static_cast<char>(rng());
    if (rng() % 4 == 0) bad.resize(rng() % bad.size());
    auto v = vocabulary_from_json(bad, "", 5000);
    if (!v) continue;
    const auto tokenizer = make_tokenizer(std::move(*v));
    if (!tokenizer) continue;
    const auto ids = (*tokenizer)->encode("some text <s> \xc3\xa9\n", {true, true});
    EXPECT_LE(ids.size(), 40U);
  }
}

TEST(HostileTokenizer, GgufMetadataIsChecked) {
  using Metadata = std::map<std::string, GgufValue, std::less<>>;
  std::vector<std::string> tokens;
  for (int c = 0x21; c < 0x7f; ++c) tokens.emplace_back(1, static_cast<char>(c));
  tokens.emplace_back("\xc4\xa0");  // the printable space
  const auto n = static_cast<int64_t>(tokens.size());
  const Metadata good = {{"tokenizer.ggml.model", std::string("gpt2")},
                         {"tokenizer.ggml.pre", std::string("gpt-2")},
                         {"tokenizer.ggml.tokens", tokens},
                         {"tokenizer.ggml.merges", std::vector<std::string>{}}};
  const auto build = [&](const std::string& key, GgufValue value) -> bool {
    Metadata metadata = good;
    metadata[key] = std::move(value);
    auto v = vocabulary_from_gguf(metadata);
    return v.ok() && make_tokenizer(std::move(*v)).ok();
  };
  EXPECT_TRUE(build("general.name", std::string("fine")));
  EXPECT_FALSE(build("tokenizer.ggml.bos_token_id", n));
  EXPECT_FALSE(build("tokenizer.ggml.eos_token_id", int64_t{-1}));
  EXPECT_FALSE(build("tokenizer.ggml.token_type", std::vector<int64_t>{1, 2}));
  EXPECT_FALSE(build("tokenizer.ggml.merges", std::vector<std::string>{"a b"}));
  EXPECT_FALSE(build("tokenizer.ggml.merges", std::vector<std::string>{""}));
  EXPECT_FALSE(build("tokenizer.ggml.merges", std::vector<std::string>{"ab"}));
  EXPECT_FALSE(build("tokenizer.ggml.merges", std::vector<std::string>{" a"}));
  EXPECT_FALSE(build("tokenizer.ggml.merges", int64_t{1}));
  EXPECT_FALSE(build("tokenizer.ggml.model", std::string("bert")));
  EXPECT_FALSE(build("tokenizer.ggml.model", std::string("llama"))) << "no scores";
  EXPECT_FALSE(build("tokenizer.ggml.tokens", std::vector<std::string>{}));
  std::vector<std::string> hole = tokens;
  hole.emplace_back("");
  EXPECT_FALSE(build("tokenizer.ggml.tokens", hole));
}

}  // namespace
}  // namespace troupe
