#include "actors/sim/workload.h"
#include "tests/support/temp_dir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace troupe {
namespace {

using ::testing::HasSubstr;

const std::string kHead = "{\"format\":\"troupe-workload\",\"version\":1}\n";

WorkloadOptions options(int32_t requests = 0) {
  WorkloadOptions o;
  o.requests = requests;
  o.max_context = 131072;
  return o;
}

std::string refusal(const std::string& spec, const WorkloadOptions& o = options()) {
  const auto made = make_workload(spec, o);
  EXPECT_FALSE(made.ok()) << spec;
  return made.ok() ? "" : made.error().message;
}

std::string file_refusal(const std::string& text) {
  const auto parsed = parse_workload(text, "w.jsonl");
  EXPECT_FALSE(parsed.ok()) << text;
  return parsed.ok() ? "" : parsed.error().message;
}

double quantile(const Workload& w, int32_t WorkloadRequest::*field, double q) {
  std::vector<int32_t> values;
  for (const WorkloadRequest& r : w.requests) values.push_back(r.*field);
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}

double mean(const Workload& w, int32_t WorkloadRequest::*field) {
  double sum = 0;
  for (const WorkloadRequest& r : w.requests) sum += r.*field;
  return sum / static_cast<double>(w.requests.size());
}

TEST(Workload, FixedLengthsAreKnownToTheClient) {
  const auto w = *make_workload("random:1000/500", options(20));
  ASSERT_EQ(w.requests.size(), 20U);
  for (const WorkloadRequest& r : w.requests) {
    EXPECT_EQ(r.prompt_tokens, 1000);
    EXPECT_EQ(r.output_tokens, 500);
    EXPECT_EQ(r.max_tokens, 500);
    EXPECT_EQ(r.arrival_s, 0);
  }
}

TEST(Workload, RangesAreUniformAndHidden) {
  const auto w = *make_workload("random:32-4000/2-4000", options(20000));
  EXPECT_NEAR(mean(w, &WorkloadRequest::prompt_tokens), 2016, 40);
  EXPECT_NEAR(mean(w, &WorkloadRequest::output_tokens), 2001, 40);
  for (const WorkloadRequest& r : w.requests) EXPECT_EQ(r.max_tokens, 4096);
}

TEST(Workload, ChatsLookLikeShareGpt) {
  const auto w = *make_workload("sharegpt-like", options(50000));
  EXPECT_NEAR(mean(w, &WorkloadRequest::prompt_tokens), 220, 25);
  EXPECT_NEAR(mean(w, &WorkloadRequest::output_tokens), 195, 20);
}

TEST(Workload, ReasoningIsHeavyTailed) {
  const auto w = *make_workload("reasoning-like", options(50000));
  EXPECT_NEAR(mean(w, &WorkloadRequest::prompt_tokens), 381, 40);
  EXPECT_NEAR(quantile(w, &WorkloadRequest::prompt_tokens, 0.5), 209, 10);
  EXPECT_NEAR(quantile(w, &WorkloadRequest::prompt_tokens, 0.99), 2594, 150);
  EXPECT_NEAR(mean(w, &WorkloadRequest::output_tokens), 2160, 120);
  EXPECT_NEAR(quantile(w, &WorkloadRequest::output_tokens, 0.5), 1954, 60);
  EXPECT_NEAR(quantile(w, &WorkloadRequest::output_tokens, 0.9), 3872, 100);
  EXPECT_NEAR(quantile(w, &WorkloadRequest::output_tokens, 0.99), 6428, 250);
}

TEST(Workload, TheSameSeedMakesTheSameRequests) {
  WorkloadOptions o = options(100);
  o.rate = 10;
  const auto a = *make_workload("sharegpt-like", o);
  const auto b = *make_workload("sharegpt-like", o);
  o.seed = 2;
  const auto c = *make_workload("sharegpt-like", o);
  bool differs = false;
  for (size_t i = 0; i < 100; ++i) {
    EXPECT_EQ(a.requests[i].prompt_tokens, b.requests[i].prompt_tokens);
    EXPECT_EQ(a.requests[i].arrival_s, b.requests[i].arrival_s);
    differs = differs || a.requests[i].prompt_tokens != c.requests[i].prompt_tokens;
  }
  EXPECT_TRUE(differs);
}

TEST(Workload, ArrivalsHaveTheRate) {
  WorkloadOptions o = options(20000);
  o.rate = 50;
  const auto w = *make_workload("random:10/10", o);
  EXPECT_NEAR(w.requests.back().arrival_s, 400, 12);
  EXPECT_TRUE(std::is_sorted(w.requests.begin(), w.requests.end(),
                             [](const WorkloadRequest& a, const WorkloadRequest& b) {
                               return a.arrival_s < b.arrival_s;
                             }));
}

TEST(Workload, RefusesNonsense) {
  EXPECT_THAT(refusal("random:"), HasSubstr("is no workload"));
  EXPECT_THAT(refusal("random:10"), HasSubstr("is no workload"));
  EXPECT_THAT(refusal("random:0/10"), HasSubstr("is no workload"));
  EXPECT_THAT(refusal("random:20-10/10"), HasSubstr("is no workload"));
  EXPECT_THAT(refusal("random:10/-5"), HasSubstr("is no workload"));
  EXPECT_THAT(refusal("random:1000000000000/10"), HasSubstr("no model has a context"));
  EXPECT_THAT(refusal("random:99999999999999999999/10"), HasSubstr("is no workload"));
  EXPECT_THAT(refusal("random:200000/10"), HasSubstr("the model's context is 131072"));
  EXPECT_THAT(refusal("random:65000/65000", options(10'000'000)), HasSubstr("10^11"));
  EXPECT_THAT(refusal("no-such-file"), HasSubstr("'no-such-file' is neither a file nor"));
}

TEST(WorkloadFile, ReadsRequestsByArrival) {
  const auto w = parse_workload(
      kHead + "{\"prompt_tokens\":5,\"output_tokens\":2,\"arrival_s\":3.5}\n\n" +
          "{\"prompt_tokens\":9,\"output_tokens\":4,\"max_tokens\":8,\"prefix_group\":3,"
          "\"prefix_tokens\":6}",
      "w");
  ASSERT_TRUE(w.ok()) << w.error().message;
  ASSERT_EQ(w->requests.size(), 2U);
  EXPECT_EQ(w->requests[0].prompt_tokens, 9);
  EXPECT_EQ(w->requests[0].max_tokens, 8);
  EXPECT_EQ(w->requests[0].prefix_group, 3);
  EXPECT_EQ(w->requests[0].prefix_tokens, 6);
  EXPECT_EQ(w->requests[1].arrival_s, 3.5);
  EXPECT_EQ(w->requests[1].max_tokens, 2);
}

TEST(WorkloadFile, RefusesBadLinesWithTheirNumber) {
  const std::string good = "{\"prompt_tokens\":5,\"output_tokens\":2}\n";
  EXPECT_THAT(file_refusal(""), HasSubstr("w.jsonl:1: no requests"));
  EXPECT_THAT(file_refusal(good), HasSubstr("w.jsonl:1: a workload begins with"));
  EXPECT_THAT(file_refusal("{\"format\":\"troupe-workload\",\"version\":2}\n"),
              HasSubstr("w.jsonl:1: version 2; this program reads version 1"));
  EXPECT_THAT(file_refusal(kHead), HasSubstr("no requests"));
  EXPECT_THAT(file_refusal(kHead + good + "{\"prompt_tok"), HasSubstr("w.jsonl:3: not a JSON"));
  EXPECT_THAT(file_refusal(kHead + "{\"prompt_tokens\":5}"),
              HasSubstr("w.jsonl:2: 'output_tokens' is missing"));
  EXPECT_THAT(file_refusal(kHead + "{\"prompt_tokens\":-5,\"output_tokens\":2}"),
              HasSubstr("'prompt_tokens' must be a whole number"));
  EXPECT_THAT(file_refusal(kHead + "{\"prompt_tokens\":1000000000000,\"output_tokens\":2}"),
              HasSubstr("'prompt_tokens' must be a whole number"));
  EXPECT_THAT(file_refusal(kHead + "{\"prompt_tokens\":5,\"output_tokens\":2,\"max_tokens\":1}"),
              HasSubstr("'max_tokens' is below output_tokens"));
  EXPECT_THAT(file_refusal(kHead + "{\"prompt_tokens\":5,\"output_tokens\":2,\"colour\":1}"),
              HasSubstr("is not known"));
  EXPECT_THAT(file_refusal(kHead + "{\"prompt_tokens\":5,\"output_tokens\":2,\"arrival_s\":-1}"),
              HasSubstr("'arrival_s' must be"));
}

TEST(WorkloadFile, TakesAsManyRequestsAsAskedFor) {
  const test::TempDir directory;
  const std::string path =
      directory.write("w", kHead +
                               "{\"prompt_tokens\":5,\"output_tokens\":2}\n{\"prompt_tokens\":6,"
                               "\"output_tokens\":2}\n");
  EXPECT_EQ(make_workload(path, options())->requests.size(), 2U);
  EXPECT_EQ(make_workload(path, options(1))->requests.size(), 1U);
  EXPECT_THAT(refusal(path, options(3)), HasSubstr("has 2 requests, not the 3 asked for"));
}

}  // namespace
}  // namespace troupe
