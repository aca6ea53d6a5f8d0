// The default model against logits of an independent float64 program
// (tests/support/reference/llama_numpy.py). Needs TROUPE_TEST_MODEL.
#include "tests/support/model_logits.h"

#include <nlohmann/json.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iostream>

namespace troupe {
namespace {

struct Reference {
  std::vector<size_t> probe_ids;
  std::vector<std::vector<int32_t>> prompts;
  std::vector<nlohmann::json> positions;  // of each prompt
};

class LlamaReference : public testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("TROUPE_TEST_MODEL");
    if (path == nullptr) GTEST_SKIP() << "set TROUPE_TEST_MODEL to the default model's GGUF";
    auto opened = Checkpoint::open(path);
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    checkpoint_ = std::move(opened).value();
    std::ifstream file(TROUPE_SOURCE_DIR "/tests/data/smollm2_reference.json");
    const auto json = nlohmann::json::parse(file);
    reference_.probe_ids = json.at("probe_ids").get<std::vector<size_t>>();
    for (const auto& prompt : json.at("prompts")) {
      reference_.prompts.push_back(prompt.at("tokens").get<std::vector<int32_t>>());
      reference_.positions.push_back(prompt.at("positions"));
    }
  }

  /// Calls visit(position record, logits of that position) for all positions; returns how many.
  template <class Visit>
  int32_t compare(const test::LogitsOptions& options, const Visit& visit) const {
    const auto logits = test::model_logits(*checkpoint_, reference_.prompts, options);
    const auto vocab = static_cast<size_t>(checkpoint_->config().vocab);
    int32_t n = 0;
    for (size_t p = 0; p < logits.size(); ++p)
      for (size_t i = 0; i < reference_.prompts[p].size(); ++i, ++n)
        visit(reference_.positions[p][i], std::span(logits[p]).subspan(i * vocab, vocab));
    return n;
  }

  void check_exact(int32_t ranks) const {
    double worst = 0;
    const int32_t n = compare({.ranks = ranks}, [&](const auto& record, auto row) {
      const double range = record.at("range").template get<double>();
      const auto error = [&](double want, double got) {
        worst = std::max(worst, std::abs(want - got) / range);
      };
      for (const auto& best : record.at("best"))
        error(best[1].template get<double>(), double{row[best[0].template get<size_t>()]});
      for (size_t i = 0; i < reference_.probe_ids.size(); ++i)
        error(record.at("probes")[i].template get<double>(), double{row[reference_.probe_ids[i]]});
      const auto [low, high] = std::minmax_element(row.begin(), row.end());
      error(range, double{*high} - double{*low});
      double sum = 0;
      for (const float v : row) sum += std::exp(double{v} - double{*high});
      error(record.at("lse").template get<double>(), double{*high} + std::log(sum));
    });
    std::cout << "exact, " << ranks << " ranks, " << n << " positions: max error " << worst
              << " of the logit range\n";
    EXPECT_GE(n, 250);
    EXPECT_LE(worst, 1e-3);
  }

  void check_fast(int32_t ranks) const {
    int32_t same = 0;
    double worst = 0;
    const int32_t n = compare(
        {.mode = WeightMode::kFast, .kv = DType::kF16, .ranks = ranks},
        [&](const auto& record, auto row) {
          const auto pick =
              static_cast<size_t>(std::max_element(row.begin(), row.end()) - row.begin());
          const auto& best = record.at("best");
          if (pick == best[0][0].template get<size_t>()) {
            ++same;
            return;
          }
          // Outside the recorded best the miss is at least the distance to the last of them.
          double miss = best[0][1].template get<double>() - best.back()[1].template get<double>();
          for (const auto& entry : best)
            if (entry[0].template get<size_t>() == pick)
              miss = best[0][1].template get<double>() - entry[1].template get<double>();
          worst = std::max(worst, miss);
        });
    std::cout << "fast, " << ranks << " ranks: same best token at " << same << " of " << n
              << " positions (" << 100.0 * same / n << " %), largest miss " << worst << " logit\n";
    EXPECT_GE(n, 250);
    EXPECT_GE(same, 0.96 * n);
    EXPECT_LE(worst, 0.3);
  }

  std::unique_ptr<Checkpoint> checkpoint_;
  Reference reference_;
};

TEST_F(LlamaReference, ExactModeOnOneRank) { check_exact(1); }
TEST_F(LlamaReference, ExactModeOnThreeRanks) { check_exact(3); }
TEST_F(LlamaReference, FastModeOnOneRank) { check_fast(1); }
TEST_F(LlamaReference, FastModeOnTwoRanks) { check_fast(2); }
TEST_F(LlamaReference, FastModeOnFourRanks) { check_fast(4); }

}  // namespace
}  // namespace troupe
