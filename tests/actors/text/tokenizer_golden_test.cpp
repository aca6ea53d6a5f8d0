#include "tests/actors/text/tokenizer_fixture.h"

namespace troupe {
namespace {

class TokenizerGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(TokenizerGolden, MatchesHuggingFace) {
  const auto tokenizer = testing::load_json(GetParam());
  ASSERT_NE(tokenizer, nullptr);
  testing::check_golden(*tokenizer, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Kinds, TokenizerGolden,
                         ::testing::Values("llama3", "qwen2", "smollm", "llama2", "metaspace"),
                         [](const auto& param) { return std::string(param.param); });

}  // namespace
}  // namespace troupe
