#include "gpu/model/llama.h"

#include "tests/support/model_logits.h"
#include "tests/support/naive_llama.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace troupe {
namespace {

/// Uneven on purpose: 3 KV heads, 5 blocks of MLP columns, 11 of vocabulary.
test::TinyModel tiny(const std::string& architecture) {
  test::TinyModel m;
  m.architecture = architecture;
  m.layers = 3;
  m.hidden = 96;
  m.heads = 6;
  m.kv_heads = 3;
  m.head_dim = 32;
  m.ffn = 160;
  m.vocab = 333;
  m.tied = architecture == "llama" || architecture == "qwen3";
  return m;
}

std::vector<int32_t> some_tokens(int32_t n, int32_t vocab) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < n; ++i) tokens.push_back((i * 97 + 13) % vocab);
  return tokens;
}

std::unique_ptr<Checkpoint> open(const std::string& path) {
  auto checkpoint = Checkpoint::open(path);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  return checkpoint.ok() ? std::move(checkpoint).value() : nullptr;
}

void expect_near(const std::vector<float>& got, const std::vector<std::vector<double>>& want,
                 const std::string& what) {
  double low = want[0][0];
  double high = low;
  double worst = 0;
  size_t i = 0;
  for (const auto& row : want) {
    for (const double v : row) {
      low = std::min(low, v);
      high = std::max(high, v);
      worst = std::max(worst, std::abs(v - double{got[i++]}));
    }
  }
  ASSERT_EQ(i, got.size());
  EXPECT_LE(worst, 1e-5 * (high - low)) << what;  // fp32
}

class LlamaFamily : public testing::TestWithParam<const char*> {};

TEST_P(LlamaFamily, MatchesThePlainDecoderAtEveryRankCount) {
  const test::TinyModel m = tiny(GetParam());
  const std::vector<int32_t> tokens = some_tokens(40, m.vocab);
  const bool window = m.architecture == "mistral";
  const auto want = test::naive_logits(m, test::tiny_tensors(m), tokens, window ? 9 : 0);
  const test::TempDir dir;
  test::write_tiny_hf(m, dir / "hf", DType::kF32, window ? R"(,"sliding_window":9)" : "");
  const auto checkpoint = open(dir / "hf");
  ASSERT_NE(checkpoint, nullptr);
  for (int32_t ranks = 1; ranks <= 4; ++ranks)
    expect_near(test::model_logits(*checkpoint, {tokens}, {.ranks = ranks})[0], want,
                std::to_string(ranks) + " ranks");
}

TEST_P(LlamaFamily, GgufIsTheSameModel) {
  const test::TinyModel m = tiny(GetParam());
  const std::vector<int32_t> tokens = some_tokens(40, m.vocab);
  const test::TempDir dir;
  test::write_tiny_gguf(m, dir / "m.gguf");
  const auto checkpoint = open(dir / "m.gguf");
  ASSERT_NE(checkpoint, nullptr);
  expect_near(test::model_logits(*checkpoint, {tokens}, {.ranks = 2})[0],
              test::naive_logits(m, test::tiny_tensors(m), tokens), "gguf");
}

// Fast mode: the result may differ from fp32, but not between ways of computing it.
TEST_P(LlamaFamily, LogitsDoNotDependOnHowTheSequenceIsCutOrStored) {
  const test::TinyModel m = tiny(GetParam());
  const std::vector<int32_t> tokens = some_tokens(70, m.vocab);
  const test::TempDir dir;
  test::write_tiny_gguf(m, dir / "m.gguf", DType::kQ4_1);
  const auto checkpoint = open(dir / "m.gguf");
  ASSERT_NE(checkpoint, nullptr);
  for (const int32_t ranks : {1, 2, 3}) {
    test::LogitsOptions options{.mode = WeightMode::kFast, .kv = DType::kF16, .ranks = ranks};
    const auto whole = test::model_logits(*checkpoint, {tokens}, options)[0];
    for (const int32_t chunk : {1, 2, 3, 7, 16, 33, 64}) {
      options.chunk = chunk;
      options.slot_stride = 2 * chunk + 1;
      EXPECT_EQ(test::model_logits(*checkpoint, {tokens}, options)[0], whole)
          << ranks << " ranks, chunks of " << chunk;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, LlamaFamily, testing::Values("llama", "mistral", "qwen2", "qwen3"),
                         [](const auto& p) { return std::string(p.param); });

TEST(Llama, KnowsItsWeightBytesBeforeLoading) {
  const test::TempDir dir;
  const test::TinyModel m = tiny("llama");
  test::write_tiny_hf(m, dir / "hf");
  const auto checkpoint = open(dir / "hf");
  ASSERT_NE(checkpoint, nullptr);
  Stream stream(1);
  const Shard shard = make_shard(checkpoint->config(), 32, 0, 1);
  const auto model = Llama::load(*checkpoint, shard, true, WeightMode::kExact, 4, stream);
  ASSERT_TRUE(model.ok()) << model.error().message;
  const int64_t told = Llama::weight_bytes(*checkpoint, shard, WeightMode::kExact);
  EXPECT_NEAR(static_cast<double>((*model)->weight_bytes()), static_cast<double>(told),
              0.02 * static_cast<double>(told));
}

}  // namespace
}  // namespace troupe
