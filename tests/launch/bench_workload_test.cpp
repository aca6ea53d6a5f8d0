#include "launch/bench_workload.h"

#include <nlohmann/json.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace troupe {
namespace {

using nlohmann::json;

TEST(TokenRange, is_a_number_or_two) {
  const auto one = parse_token_range("16");
  ASSERT_TRUE(one);
  EXPECT_EQ(one->low, 16);
  EXPECT_EQ(one->high, 16);
  const auto two = parse_token_range("16:512");
  ASSERT_TRUE(two);
  EXPECT_EQ(two->low, 16);
  EXPECT_EQ(two->high, 512);
  for (const char* bad : {"", "0", "-1", "x", "1.5", "5:4", ":4", "4:", "1:2:3", "99999999999"}) {
    EXPECT_FALSE(parse_token_range(bad)) << bad;
  }
}

TEST(Workload, lengths_fill_their_range_and_the_seed_decides) {
  BenchServeCommand bench;
  bench.input = {10, 12};
  bench.output = {5, 5};
  const auto a = plan_load(bench, 200, 1);
  const auto b = plan_load(bench, 200, 1);
  const auto other = plan_load(bench, 200, 2);
  ASSERT_EQ(a.size(), 200u);
  int32_t low = 1000;
  int32_t high = 0;
  bool differs = false;
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].input_tokens, b[i].input_tokens);
    EXPECT_EQ(a[i].seed, b[i].seed);
    EXPECT_EQ(a[i].output_tokens, 5);
    EXPECT_EQ(a[i].arrival, 0);
    low = std::min(low, a[i].input_tokens);
    high = std::max(high, a[i].input_tokens);
    differs = differs || a[i].seed != other[i].seed;
  }
  EXPECT_EQ(low, 10);
  EXPECT_EQ(high, 12);
  EXPECT_TRUE(differs);
}

TEST(Workload, arrivals_are_poisson) {
  BenchServeCommand bench;
  bench.rate = 20;
  const int32_t n = 20000;
  const auto plan = plan_load(bench, n + 1, 7);
  EXPECT_EQ(plan.front().arrival, 0);
  double sum = 0;
  double squares = 0;
  for (size_t i = 1; i < plan.size(); ++i) {
    const double gap = plan[i].arrival - plan[i - 1].arrival;
    ASSERT_GE(gap, 0);
    sum += gap;
    squares += gap * gap;
  }
  const double mean = sum / n;
  // Mean and deviation of an exponential are both 1 / rate; three standard errors of n samples.
  EXPECT_NEAR(mean, 1 / bench.rate, 3 / bench.rate / std::sqrt(n));
  EXPECT_NEAR(std::sqrt(squares / n - mean * mean), 1 / bench.rate,
              3 * std::sqrt(2.0) / bench.rate / std::sqrt(n));
}

TEST(Workload, both_loops_send_the_same_prompts) {
  BenchServeCommand closed;
  closed.input = {1, 100};
  BenchServeCommand open = closed;
  open.rate = 5;
  const auto a = plan_load(closed, 10, 3);
  const auto b = plan_load(open, 10, 3);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a[i].seed, b[i].seed);
}

TEST(RequestBody, holds_as_many_ids_as_asked_within_the_vocabulary) {
  BenchServeCommand bench;
  bench.vocab = 200;
  const json body = json::parse(request_body(bench, "m", {0, 300, 7, 1}));
  EXPECT_EQ(body.at("model"), "m");
  EXPECT_EQ(body.at("max_tokens"), 7);
  EXPECT_EQ(body.at("stream"), true);
  EXPECT_EQ(body.at("ignore_eos"), true);
  const auto ids = body.at("prompt").get<std::vector<int32_t>>();
  ASSERT_EQ(ids.size(), 300u);
  EXPECT_GE(*std::min_element(ids.begin(), ids.end()), 100);
  EXPECT_LT(*std::max_element(ids.begin(), ids.end()), 200);
}

TEST(RequestBody, words_and_chat_are_text) {
  BenchServeCommand bench;
  bench.prompt = "words";
  bench.respect_eos = true;
  const json words = json::parse(request_body(bench, "m", {0, 4, 7, 1}));
  const auto text = words.at("prompt").get<std::string>();
  EXPECT_EQ(std::count(text.begin(), text.end(), ' '), 3);
  EXPECT_FALSE(words.contains("ignore_eos"));
  bench.endpoint = "chat";
  const json chat = json::parse(request_body(bench, "m", {0, 4, 7, 1}));
  EXPECT_EQ(chat.at("messages")[0].at("role"), "user");
  EXPECT_EQ(chat.at("messages")[0].at("content"), text);
}

}  // namespace
}  // namespace troupe
