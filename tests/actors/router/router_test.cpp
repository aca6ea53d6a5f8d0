#include "tests/support/router_world.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace troupe {
namespace {

using test::kStop;
using test::prompt_of;

/// The world, with gtest for what goes wrong in it.
class World : public test::RouterWorld {
 public:
  using RouterWorld::RouterWorld;
  ~World() { EXPECT_THAT(faults, testing::IsEmpty()); }
  void expect_complete(RequestId id) const {
    FinishReason reason{};
    EXPECT_EQ(outputs.at(id), expected(id, &reason)) << "request " << id;
    ASSERT_TRUE(ends.contains(id)) << "request " << id;
    EXPECT_EQ(ends.at(id), reason) << "request " << id;
  }
};

void expect_empty(World& w) { EXPECT_TRUE(w.empty()); }

TEST(Router, OneRequestGetsExactlyItsTokens) {
  World w;
  w.add_replica(1, 256);
  w.submit(1, prompt_of(150, 1), 20);  // three chunks of 64
  w.run_to_end();
  w.expect_complete(1);
  expect_empty(w);
}

TEST(Router, KeepsTwoPlansInFlight) {
  World w;
  w.add_replica(1, 256);
  w.submit(1, prompt_of(5, 3), 50);
  EXPECT_EQ(w.results[1].size(), 2U);
  w.deliver(1);
  EXPECT_EQ(w.results[1].size(), 2U);
}

TEST(Router, DecodesShareAStepWithAPrefillChunk) {
  World w;
  w.add_replica(1, 1024);
  w.submit(1, prompt_of(4, 1), 100);
  w.deliver(1);
  w.submit(2, prompt_of(200, 2), 4);
  w.run_to_end();
  w.expect_complete(1);
  w.expect_complete(2);
}

TEST(Router, PausesTheYoungestWhenThePoolIsFullAndNobodyNotices) {
  World w;
  w.add_replica(1, 160, 8);
  w.teach_short_outputs(1);
  for (RequestId id = 1; id <= 30; ++id) w.submit(id, prompt_of(20, static_cast<int32_t>(id)), 120);
  w.run_to_end();
  for (RequestId id = 1; id <= 30; ++id) w.expect_complete(id);
  EXPECT_GT(w.router.stats().pauses, 0U);
  expect_empty(w);
}

TEST(Router, ALostReplicasRequestsGoOnAtTheNextToken) {
  World w;
  w.add_replica(1, 512);
  for (RequestId id = 1; id <= 4; ++id) w.submit(id, prompt_of(10, static_cast<int32_t>(id)), 40);
  for (int i = 0; i < 5; ++i) w.deliver(1);
  w.lose_replica(1);
  EXPECT_EQ(w.router.stats().running, 0);
  w.add_replica(2, 512);
  w.plan();
  w.run_to_end();
  for (RequestId id = 1; id <= 4; ++id) w.expect_complete(id);
}

TEST(Router, ASecondReplicaTakesLoad) {
  World w;
  w.add_replica(1, 512, 2);
  for (RequestId id = 1; id <= 6; ++id) w.submit(id, prompt_of(10, static_cast<int32_t>(id)), 40);
  EXPECT_EQ(w.router.stats().queued, 4);
  w.add_replica(2, 512, 2);
  w.plan();
  EXPECT_EQ(w.router.stats().queued, 2);
  EXPECT_FALSE(w.results[2].empty());
  w.run_to_end();
  for (RequestId id = 1; id <= 6; ++id) w.expect_complete(id);
}

TEST(Router, ResultsOfAnOldEpochOnlyCount) {
  World w;
  w.add_replica(1, 512);
  w.submit(1, prompt_of(10, 1), 40);
  const StepResult stale = w.results[1].front();
  w.lose_replica(1);
  w.add_replica(1, 512);  // the same job number, a new epoch
  w.plan();
  EXPECT_TRUE(w.router.apply(1, 0, stale, ++w.now).ok());
  EXPECT_EQ(w.router.stats().stale_messages, 1U);
  w.run_to_end();
  w.expect_complete(1);
}

TEST(Router, RanksThatDisagreeAreAnError) {
  Router router({.max_context = 100});
  router.replica_ready({1, 2, 64, 4, 16}, 1);
  TokenizedRequest r;
  r.id = 1;
  r.prompt = {1, 2, 3};
  r.max_tokens = 5;
  router.submit(std::move(r), 1);
  const Decision d = router.plan(1);
  ASSERT_FALSE(d.plans.empty());
  StepResult a;
  a.epoch = d.plans[0].second.epoch;
  a.step = d.plans[0].second.step;
  a.digest = 1;
  StepResult b = a;
  b.digest = 2;
  EXPECT_TRUE(router.apply(1, 1, b, 2).ok());
  EXPECT_FALSE(router.apply(1, 0, a, 2).ok());
}

TEST(Router, RefusesAtTheDoor) {
  World w({.max_context = 100, .max_queue = 2});
  w.add_replica(1, 80, 1);
  w.submit(1, prompt_of(50, 1), 31);  // over the pool
  EXPECT_EQ(w.errors.at(1).code, ErrorCode::kContextLengthExceeded);
  w.submit(2, {}, 5);
  EXPECT_EQ(w.errors.at(2).code, ErrorCode::kInvalidArgument);
  for (RequestId id = 3; id <= 6; ++id) w.submit(id, prompt_of(5, 1), 10);  // one runs, two wait
  EXPECT_EQ(w.errors.at(6).code, ErrorCode::kQueueFull);
  w.router.drain();
  w.submit(7, prompt_of(5, 1), 10);
  EXPECT_EQ(w.errors.at(7).code, ErrorCode::kUnavailable);
  w.run_to_end();
  for (RequestId id = 3; id <= 5; ++id) w.expect_complete(id);
}

TEST(Router, DeadlinesEndRequestsThatRunAndThatWait) {
  World w({.max_context = 100, .max_queue = 9, .queue_timeout = 1000});
  w.submit(1, prompt_of(5, 1), 10);
  w.router.tick(w.now + 1001);
  w.plan();
  EXPECT_EQ(w.errors.at(1).code, ErrorCode::kUnavailable);
}

TEST(Router, CancelFreesSlotsWhenThePlansInFlightReturned) {
  World w;
  w.add_replica(1, 512);
  w.submit(1, prompt_of(10, 1), 400);
  w.deliver(1);
  w.router.cancel(1, w.now);
  w.router.cancel(1, w.now);   // twice
  w.router.cancel(99, w.now);  // unknown
  w.plan();
  EXPECT_EQ(w.ends.at(1), FinishReason::kCancelled);
  EXPECT_GT(w.router.stats().slots_used, 0);
  w.run_to_end();
  expect_empty(w);
}

TEST(Router, TheSamePromptIsComputedOnceInTheFirstWaveToo) {
  World w;
  w.add_replica(1, 2048, 8);
  const std::vector<int32_t> prompt = prompt_of(200, 1);
  std::vector<TokenizedRequest> wave;
  for (RequestId id = 1; id <= 8; ++id) wave.push_back(w.request(id, prompt, 1));
  for (TokenizedRequest& r : wave) {  // all before the first plan, like n = 8
    w.prompts[r.id] = r.prompt;
    w.limits_of[r.id] = r.max_tokens;
    w.router.submit(std::move(r), w.now);
  }
  w.plan();
  w.run_to_end();
  for (RequestId id = 1; id <= 8; ++id) w.expect_complete(id);
  // 200 once, and for the others the last token, whose logits they need, and up to 16 before it.
  EXPECT_LE(w.replicas.at(1).computed, 200 + 7 * 17);
  EXPECT_GE(w.cached[8], 183);
  EXPECT_EQ(w.cached[1], 0);
  expect_empty(w);
}

TEST(Router, GeneratedTokensAreFoundByTheNextTurn) {
  World w;
  w.add_replica(1, 2048);
  w.submit(1, prompt_of(50, 3), 40);
  w.run_to_end();
  w.expect_complete(1);
  std::vector<int32_t> next = prompt_of(50, 3);
  next.insert(next.end(), w.outputs[1].begin(), w.outputs[1].end());
  const auto conversation = static_cast<int32_t>(next.size());
  next.insert(next.end(), {1, 2, 3});
  w.submit(2, next, 10);
  w.run_to_end();
  w.expect_complete(2);
  EXPECT_GE(w.cached[2], conversation - 1);
  EXPECT_EQ(w.router.stats().cached_prompt_tokens, static_cast<uint64_t>(w.cached[2]));
}

TEST(Router, SaltsAndAResetKeepPrefixesApart) {
  World w;
  w.add_replica(1, 2048);
  const auto run = [&](RequestId id, uint64_t salt) {
    TokenizedRequest r = w.request(id, prompt_of(60, 3), 2);
    r.cache_salt = salt;
    w.submit(std::move(r));
    w.run_to_end();
    return w.cached[id];
  };
  EXPECT_EQ(run(1, 0), 0);
  EXPECT_EQ(run(2, 0), 59);
  EXPECT_EQ(run(3, 5), 0);
  EXPECT_EQ(run(4, 5), 59);
  w.router.reset_prefix_cache();
  EXPECT_EQ(run(5, 0), 0);
}

TEST(Router, ARowOfNonNumbersEndsItsRequestAndItsCacheEntries) {
  World w;
  w.add_replica(1, 2048);
  w.submit(1, prompt_of(30, 3), 10);
  StepResult result = w.results[1].front();
  w.results[1].pop_front();
  result.sampled.at(0).failed = true;
  EXPECT_TRUE(w.report(1, result));
  w.run_to_end();
  EXPECT_EQ(w.errors.at(1).code, ErrorCode::kInternal);
  w.submit(2, prompt_of(30, 3), 10);
  w.run_to_end();
  w.expect_complete(2);
  EXPECT_EQ(w.cached[2], 0);
}

TEST(Router, SmallRequestsOvertakeALargeOneABoundedNumberOfTimes) {
  World w({.max_context = 4096, .max_queue = 100, .max_overtakes = 3});
  w.add_replica(1, 600, 8);
  w.submit(1, prompt_of(200, 1), 90);  // leaves no room for the next
  w.submit(2, prompt_of(350, 2), 10);
  for (RequestId id = 3; id <= 8; ++id) w.submit(id, prompt_of(3, static_cast<int32_t>(id)), 1);
  EXPECT_EQ(w.router.stats().queued, 1 + 3);
  w.run_to_end();
  for (RequestId id = 1; id <= 8; ++id) w.expect_complete(id);
  const auto place = [&](RequestId id) {
    return std::find(w.end_order.begin(), w.end_order.end(), id) - w.end_order.begin();
  };
  EXPECT_LT(place(5), place(2));
}

TEST(Router, PriorityDecidesWhoStartsAndWhoIsPaused) {
  World w;
  w.add_replica(1, 2048, 1);
  w.submit(1, prompt_of(10, 1), 20);
  for (RequestId id = 2; id <= 4; ++id) {
    TokenizedRequest r = w.request(id, prompt_of(10, static_cast<int32_t>(id)), 5);
    r.priority = id == 4 ? -1 : 0;
    w.submit(std::move(r));
  }
  w.run_to_end();
  EXPECT_EQ(w.end_order, (std::vector<RequestId>{1, 4, 2, 3}));
}

TEST(Router, ATenantWithALongQueueDoesNotHoldUpAnother) {
  World w;
  w.add_replica(1, 2048, 1);
  for (RequestId id = 1; id <= 20; ++id) {
    TokenizedRequest r = w.request(id, prompt_of(10, static_cast<int32_t>(id)), 5);
    r.tenant = id == 20 ? 2 : 1;
    w.submit(std::move(r));
  }
  w.run_to_end();
  const auto at = std::find(w.end_order.begin(), w.end_order.end(), RequestId{20});
  EXPECT_LE(at - w.end_order.begin(), 2);
}

TEST(Router, RefusesAtOnceWhatCannotMeetItsTargets) {
  World w;
  w.compute_us = 100'000;  // 0.1 s a step of at most 64 tokens
  w.add_replica(1, 4096, 8);
  for (RequestId id = 1; id <= 6; ++id) w.submit(id, prompt_of(600, static_cast<int32_t>(id)), 20);
  w.run_to_end();
  const auto ask = [&](RequestId id, Micros ttft, Micros tpot) {
    TokenizedRequest r = w.request(id, prompt_of(1000, static_cast<int32_t>(50 + id)), 5);
    r.ttft_target = ttft;
    r.tpot_target = tpot;
    w.submit(std::move(r));
  };
  ask(11, 200'000, 0);
  ASSERT_TRUE(w.errors.contains(11));
  EXPECT_EQ(w.errors.at(11).code, ErrorCode::kDeadlineExceeded);
  EXPECT_THAT(w.errors.at(11).message, testing::HasSubstr("predicted time to the first token is"));
  ask(12, 60'000'000, 0);
  EXPECT_FALSE(w.ends.contains(12));
  ask(13, 0, 10'000);
  ASSERT_TRUE(w.errors.contains(13));
  EXPECT_THAT(w.errors.at(13).message, testing::HasSubstr("a token takes"));
  w.run_to_end();
  w.expect_complete(12);
}

TEST(Router, ARequestGoesWhereItsPrefixIs) {
  World w;
  w.add_replica(1, 2048);
  w.submit(1, prompt_of(300, 1), 3);
  w.run_to_end();
  w.add_replica(2, 2048);
  w.submit(2, prompt_of(300, 1), 3);
  EXPECT_FALSE(w.results[1].empty());
  EXPECT_TRUE(w.results[2].empty());
  w.submit(3, prompt_of(300, 2), 3);  // nothing cached: where less runs
  EXPECT_EQ(w.results[2].size(), 2U);
  w.run_to_end();
  for (RequestId id = 1; id <= 3; ++id) w.expect_complete(id);
}

TEST(Router, AWaveComputesASharedPrefixOnOneReplica) {
  World w;
  for (uint64_t job = 1; job <= 2; ++job) w.add_replica(job, 4000, 12);
  std::vector<TokenizedRequest> wave;
  for (RequestId id = 1; id <= 24; ++id) {
    std::vector<int32_t> prompt = prompt_of(300, static_cast<int32_t>(id % 4));
    for (int32_t i = 0; i < 20; ++i) prompt.push_back(100 + static_cast<int32_t>(id) + i);
    wave.push_back(w.request(id, std::move(prompt), 3));
  }
  for (TokenizedRequest& r : wave) {  // all before the first plan
    w.prompts[r.id] = r.prompt;
    w.limits_of[r.id] = r.max_tokens;
    w.router.submit(std::move(r), w.now);
  }
  w.plan();
  EXPECT_FALSE(w.results[1].empty());
  EXPECT_FALSE(w.results[2].empty());
  w.run_to_end();
  int64_t output = 0;
  for (RequestId id = 1; id <= 24; ++id) {
    w.expect_complete(id);
    output += static_cast<int64_t>(w.outputs[id].size()) + 1;
  }
  // Four prefixes once, every own part, and the output.
  EXPECT_LE(w.replicas.at(1).computed + w.replicas.at(2).computed, 4 * 300 + 24 * 20 + output);
}

TEST(Router, ALostReplicasRequestsMoveToTheOther) {
  World w;
  w.add_replica(1, 1024);
  w.add_replica(2, 1024);
  for (RequestId id = 1; id <= 8; ++id) w.submit(id, prompt_of(30, static_cast<int32_t>(id)), 40);
  ASSERT_FALSE(w.results[1].empty());
  ASSERT_FALSE(w.results[2].empty());
  for (int i = 0; i < 4; ++i) w.deliver(1);
  w.lose_replica(1);
  EXPECT_EQ(w.router.stats().running, 8);
  w.run_to_end();
  for (RequestId id = 1; id <= 8; ++id) w.expect_complete(id);
}

TEST(Router, DuplicatesChangeNothingAndAMissingReportIsAnError) {
  World w;
  w.add_replica(1, 512);
  w.submit(1, prompt_of(10, 1), 40);
  const StepResult first = w.results[1].front();
  w.deliver(1);
  EXPECT_TRUE(w.router.apply(1, 0, first, ++w.now).ok());
  EXPECT_TRUE(w.router.apply(1, 7, first, ++w.now).ok());  // no such rank
  EXPECT_EQ(w.router.stats().stale_messages, 2U);
  w.results[1].pop_front();
  ASSERT_FALSE(w.results[1].empty());
  EXPECT_FALSE(w.deliver(1));  // the step before it is missing
  w.add_replica(2, 512);
  w.plan();
  w.run_to_end();
  w.expect_complete(1);
}

}  // namespace
}  // namespace troupe
