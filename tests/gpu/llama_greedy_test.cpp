// The default model decodes the same tokens at every degree of tensor parallelism when exact.
// Needs TROUPE_TEST_MODEL.
#include "tests/support/run_plans.h"
#include "tests/support/step_script.h"

#include <nlohmann/json.hpp>

#include <cstdlib>
#include <fstream>
#include <set>

namespace troupe {
namespace {

constexpr int32_t kTokens = 64;

TEST(LlamaGreedy, SixPromptsGiveTheSameTokensOnOneToFourRanks) {
  const char* path = std::getenv("TROUPE_TEST_MODEL");
  if (path == nullptr) GTEST_SKIP() << "set TROUPE_TEST_MODEL to the default model's GGUF";
  auto checkpoint = Checkpoint::open(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  std::ifstream file(TROUPE_SOURCE_DIR "/tests/data/smollm2_prompts.json");
  const auto prompts = nlohmann::json::parse(file).at("prompts");
  ASSERT_EQ(prompts.size(), 6u);

  ExecutorOptions options;
  options.weights = WeightMode::kExact;
  options.kv = DType::kF32;
  options.n_slots = 1024;
  options.max_rows = 6;
  test::StepScript script(options.n_slots, 5);
  SamplingParams greedy;
  greedy.temperature = 0;
  script.begin_step();
  for (int32_t row = 0; row < 6; ++row) {
    const auto tokens = prompts[static_cast<size_t>(row)].at("tokens").get<std::vector<int32_t>>();
    script.open(row, static_cast<int32_t>(tokens.size()), greedy);
    script.feed(row, tokens, true);
  }
  for (int32_t i = 1; i < kTokens; ++i) {
    script.begin_step();
    for (int32_t row = 0; row < 6; ++row) script.decode(row);
  }

  const auto one = test::run_plans(**checkpoint, options, 1, script.plans());
  for (int32_t ranks = 2; ranks <= 4; ++ranks) {
    const auto many = test::run_plans(**checkpoint, options, ranks, script.plans());
    for (int32_t row = 0; row < 6; ++row) {
      const auto want = test::tokens_of(test::sampled_of(one, row));
      EXPECT_EQ(want.size(), static_cast<size_t>(kTokens));
      EXPECT_GT(std::set<int32_t>(want.begin(), want.end()).size(), 5u) << "prompt " << row;
      EXPECT_EQ(test::tokens_of(test::sampled_of(many, row)), want)
          << ranks << " ranks, prompt " << row;
    }
  }
}

}  // namespace
}  // namespace troupe
