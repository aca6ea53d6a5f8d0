#include "gpu/model/checkpoint.h"
#include "tests/actors/text/tokenizer_fixture.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

#include <cstdlib>
#include <filesystem>

namespace troupe {
namespace {

TEST(DefaultModelTokenizer, MatchesHuggingFace) {
  const char* path = std::getenv("TROUPE_TEST_MODEL");  // SmolLM2-135M-Instruct
  if (path == nullptr) GTEST_SKIP() << "TROUPE_TEST_MODEL is not set";
  const auto checkpoint = Checkpoint::open(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto tokenizer = Tokenizer::load(**checkpoint);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  testing::check_golden(**tokenizer, "smollm2");
  EXPECT_EQ((*tokenizer)->vocab(), 49152);
  EXPECT_EQ((*tokenizer)->bytes((*tokenizer)->bos()), "<|im_start|>");
  EXPECT_EQ((*tokenizer)->bytes((*tokenizer)->eos()), "<|im_end|>");
  EXPECT_FALSE((*tokenizer)->strips_leading_space());
  EXPECT_NE((*tokenizer)->chat_template().find("add_generation_prompt"), std::string::npos);
}

Result<std::shared_ptr<const Tokenizer>> load(const std::string& path) {
  const auto checkpoint = Checkpoint::open(path);
  if (!checkpoint) return checkpoint.error();
  return Tokenizer::load(**checkpoint);
}

TEST(TokenizerLoad, BothFileFormatsGiveTheSameTokenizer) {
  const test::TempDir dir;
  const test::TinyModel model;
  test::write_tiny_hf(model, dir / "hf");
  test::write_tiny_gguf(model, dir / "model.gguf");
  const auto hf = load(dir / "hf");
  const auto gguf = load(dir / "model.gguf");
  ASSERT_TRUE(hf.ok()) << hf.error().message;
  ASSERT_TRUE(gguf.ok()) << gguf.error().message;
  const std::string text = "<|im_start|>user\nW\xc3\xb6rds 12 !<|im_end|>\n";
  for (const bool parse : {false, true}) {
    const auto ids = (*hf)->encode(text, {true, parse});
    EXPECT_EQ(ids, (*gguf)->encode(text, {true, parse}));
    EXPECT_EQ(ids.size(), parse ? text.size() - 20 : text.size());
  }
  EXPECT_EQ((*hf)->bos(), 1);
  EXPECT_EQ((*gguf)->eos(), 2);
  EXPECT_EQ((*hf)->chat_template(), test::kTinyChatTemplate);
  EXPECT_EQ((*gguf)->chat_template(), test::kTinyChatTemplate);
}

TEST(TokenizerLoad, ATemplateFileWinsOverTheConfig) {
  const test::TempDir dir;
  test::write_tiny_hf({}, dir.path());
  dir.write("chat_template.jinja", "{{ other }}");
  const auto tokenizer = load(dir.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  EXPECT_EQ((*tokenizer)->chat_template(), "{{ other }}");
}

TEST(TokenizerLoad, RefusesADirectoryWithoutOrWithTooLargeATokenizer) {
  const test::TempDir dir;
  test::write_tiny_hf({}, dir.path());
  dir.write("tokenizer.json", testing::read_data("smollm.json"));  // 900 tokens, 320 rows
  EXPECT_FALSE(load(dir.path()).ok());
  std::filesystem::remove(dir / "tokenizer.json");
  const auto missing = load(dir.path());
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(missing.error().message.find("tokenizer.json is missing"), std::string::npos);
}

}  // namespace
}  // namespace troupe
