#include "launch/bench_statistics.h"

#include <gtest/gtest.h>

#include <numeric>

namespace troupe {
namespace {

RequestRecord answered(double start, std::vector<double> pieces, double end, int32_t tokens) {
  RequestRecord r;
  r.start = start;
  r.pieces = std::move(pieces);
  r.end = end;
  r.input_tokens = 10;
  r.output_tokens = tokens;
  return r;
}

TEST(Spread, interpolates_between_ranks_in_any_order) {
  const Spread s = spread({4, 1, 3, 2});
  EXPECT_EQ(s.n, 4);
  EXPECT_DOUBLE_EQ(s.mean, 2.5);
  EXPECT_DOUBLE_EQ(s.p50, 2.5);
  EXPECT_DOUBLE_EQ(s.p90, 3.7);
  EXPECT_DOUBLE_EQ(s.p99, 3.97);
}

TEST(Spread, of_a_hundred_and_one_values_is_the_values_themselves) {
  std::vector<double> values(101);
  std::iota(values.rbegin(), values.rend(), 0.0);
  const Spread s = spread(values);
  EXPECT_DOUBLE_EQ(s.p50, 50);
  EXPECT_DOUBLE_EQ(s.p90, 90);
  EXPECT_DOUBLE_EQ(s.p99, 99);
}

TEST(Spread, of_one_value_is_that_value_and_of_none_is_zero) {
  const Spread one = spread({7});
  EXPECT_DOUBLE_EQ(one.p50, 7);
  EXPECT_DOUBLE_EQ(one.p99, 7);
  const Spread none = spread({});
  EXPECT_EQ(none.n, 0);
  EXPECT_DOUBLE_EQ(none.p99, 0);
}

TEST(Summarise, measures_one_request_from_its_start) {
  const LoadReport r = summarise({answered(1.0, {1.5, 1.75, 2.5}, 2.6, 5)}, 0, 0);
  EXPECT_DOUBLE_EQ(r.ttft.p50, 500);
  EXPECT_DOUBLE_EQ(r.tpot.p50, 250);  // five tokens, four gaps, one second
  EXPECT_EQ(r.itl.n, 2);
  EXPECT_DOUBLE_EQ(r.itl.mean, 500);
  EXPECT_NEAR(r.e2e.p50, 1600, 1e-9);
}

TEST(Summarise, divides_by_the_time_from_first_start_to_last_end) {
  const LoadReport r =
      summarise({answered(2.0, {3.0, 4.0}, 4.0, 2), answered(1.0, {2.0, 3.0, 5.0}, 5.0, 6)}, 0, 0);
  EXPECT_DOUBLE_EQ(r.seconds, 4);
  EXPECT_DOUBLE_EQ(r.requests_per_s, 0.5);
  EXPECT_DOUBLE_EQ(r.output_tokens_per_s, 2);
  EXPECT_DOUBLE_EQ(r.total_tokens_per_s, 7);
}

TEST(Summarise, counts_failures_by_their_text_and_leaves_them_out_of_the_times) {
  RequestRecord refused;
  refused.start = 0;
  refused.end = 9;
  refused.error = "429: busy";
  const LoadReport r = summarise({answered(0, {1, 2}, 2, 2), refused, refused}, 0, 0);
  EXPECT_EQ(r.requests, 3);
  EXPECT_EQ(r.failed, 2);
  EXPECT_EQ(r.errors.at("429: busy"), 2);
  EXPECT_EQ(r.e2e.n, 1);
  EXPECT_EQ(r.output_tokens, 2);
  EXPECT_EQ(r.good, 1);
}

TEST(Summarise, goodput_counts_requests_within_both_bounds) {
  const std::vector<RequestRecord> records = {
      answered(0, {0.1, 0.2}, 0.2, 2),  // 100 ms, then 100 ms
      answered(0, {0.3, 0.4}, 0.4, 2),  // late
      answered(0, {0.1, 1.0}, 1.0, 2),  // slow
      answered(0, {0.1}, 0.1, 1),       // one token has no gap
  };
  EXPECT_EQ(summarise(records, 0, 0).good, 4);
  EXPECT_EQ(summarise(records, 200, 0).good, 3);
  EXPECT_EQ(summarise(records, 0, 200).good, 3);
  const LoadReport both = summarise(records, 200, 200);
  EXPECT_EQ(both.good, 2);
  EXPECT_DOUBLE_EQ(both.goodput, 2);
}

TEST(Summarise, an_answer_without_text_has_its_first_token_at_its_end) {
  const LoadReport r = summarise({answered(0, {}, 0.5, 3)}, 0, 0);
  EXPECT_DOUBLE_EQ(r.ttft.p50, 500);
  EXPECT_DOUBLE_EQ(r.tpot.p50, 0);
}

TEST(Summarise, nothing_is_no_division_by_zero) {
  const LoadReport r = summarise({}, 0, 0);
  EXPECT_EQ(r.requests, 0);
  EXPECT_DOUBLE_EQ(r.output_tokens_per_s, 0);
}

}  // namespace
}  // namespace troupe
