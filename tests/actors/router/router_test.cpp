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

/// Adds a replica whose steps take that long, and lets the router learn it.
void teach_step_time(World& w, uint32_t compute_us = 4000, int32_t n_ranks = 1) {
  w.compute_us = compute_us;
  w.add_replica(1, 1024, 8, 64, n_ranks);
  w.teach_short_outputs(1, 10);
}
RouterLimits ahead() { return {.max_context = 4096, .max_queue = 1000, .plan_ahead = 25'000}; }

TEST(Router, PlansDecodesAheadByTheirTime) {
  World w(ahead());
  teach_step_time(w);
  w.submit(1, prompt_of(5, 3), 50);
  EXPECT_EQ(w.results[1].size(), 2U) << "the prompt is not computed yet";
  w.deliver(1);
  EXPECT_EQ(w.results[1].size(), 1U + 6) << "6 steps of 4 ms";
  w.deliver(1, 5);
  EXPECT_EQ(w.results[1].size(), 2U) << "enough for the ranks";
  w.deliver(1);
  EXPECT_EQ(w.results[1].size(), 1U + 6);
  w.run_to_end();
  w.expect_complete(1);
  expect_empty(w);
}

TEST(Router, PlansLongStepsOneByOne) {
  World w(ahead());
  teach_step_time(w, 13'000);
  w.submit(1, prompt_of(5, 3), 50);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(w.results[1].size(), 2U);
    w.deliver(1);
  }
}

TEST(Router, WhoArrivesWaitsForTheStepsInFlightAlone) {
  World w(ahead());
  teach_step_time(w);
  w.submit(1, prompt_of(5, 3), 200);
  w.deliver(1);
  w.submit(2, prompt_of(100, 1), 5);
  EXPECT_EQ(w.results[1].size(), 7U);
  w.deliver(1, 6);
  EXPECT_EQ(w.results[1].size(), 2U) << "two plans in flight while a prompt is computed";
  EXPECT_EQ(w.results[1].back().sampled.size(), 1U) << "and the running request goes on";
  w.deliver(1);
  EXPECT_EQ(w.results[1].size(), 2U);
  w.run_to_end();
  w.expect_complete(1);
  w.expect_complete(2);
}

TEST(Router, PlansAheadNoFurtherThanMaxTokens) {
  World w(ahead());
  teach_step_time(w);
  w.submit(1, prompt_of(5, 3), 4);
  w.deliver(1);
  EXPECT_EQ(w.results[1].size(), 3U) << "one token is there, three are to come";
  w.submit(2, prompt_of(5, 2), 50);
  w.run_to_end();
  w.expect_complete(1);
  w.expect_complete(2);
}

TEST(Router, AStopTokenWithinAReportEndsTheStreamThere) {
  World w(ahead());
  teach_step_time(w);
  int32_t stopped = 0;
  for (RequestId id = 1; id <= 30; ++id) {
    w.submit(id, prompt_of(5, static_cast<int32_t>(id)), 100);
    while (w.deliver(1, 6)) continue;
    w.expect_complete(id);
    stopped += w.ends[id] == FinishReason::kStop ? 1 : 0;
  }
  EXPECT_GT(stopped, 3);
  expect_empty(w);
}

TEST(Router, UpdatesOfOneReportSayThatMoreFollows) {
  World w(ahead());
  teach_step_time(w);
  w.submit(1, prompt_of(5, 3), 50);
  w.submit(2, prompt_of(5, 2), 50);
  while (w.results[1].size() < 3) w.deliver(1, 2);
  const std::vector<StepResult> report(w.results[1].begin(), w.results[1].begin() + 3);
  w.results[1].clear();
  for (const StepResult& result : report) ASSERT_TRUE(w.router.apply(1, 0, result, w.now).ok());
  const Decision d = w.router.plan(w.now);
  std::vector<std::pair<RequestId, bool>> more;
  for (const RequestUpdate& u : d.updates) more.emplace_back(u.id, u.more);
  EXPECT_EQ(more, (std::vector<std::pair<RequestId, bool>>{
                      {1, true}, {2, true}, {1, true}, {2, true}, {1, false}, {2, false}}));
  w.lose_replica(1);
}

TEST(Router, ADigestThatDiffersInsideAReportIsAnError) {
  World w(ahead());
  teach_step_time(w, 4000, 2);
  w.submit(1, prompt_of(5, 3), 50);
  w.deliver(1);
  ASSERT_EQ(w.results[1].size(), 7U);
  std::vector<StepResult> digests(w.results[1].begin(), w.results[1].begin() + 5);
  ++digests[3].digest;
  for (const StepResult& result : digests) {
    EXPECT_TRUE(w.router.apply(1, 1, result, w.now).ok()) << "nothing to compare with yet";
  }
  const size_t tokens = w.outputs[1].size();
  EXPECT_FALSE(w.deliver(1, 6));
  EXPECT_EQ(w.outputs[1].size(), tokens + 3) << "those before the difference are known";
  w.add_replica(2, 512);
  w.plan();
  w.run_to_end();
  w.expect_complete(1);
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
  EXPECT_TRUE(w.report(1, {result}));
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

TEST(Router, AHigherPriorityPausesLowerOnesThatAreInItsWay) {
  World w;
  w.add_replica(1, 400, 8);
  for (RequestId id = 1; id <= 3; ++id) {
    TokenizedRequest r = w.request(id, prompt_of(60, static_cast<int32_t>(id)), 30);
    r.priority = 1;
    w.submit(std::move(r));
  }
  for (int i = 0; i < 6; ++i) w.deliver(1);
  ASSERT_EQ(w.router.stats().running, 3);
  TokenizedRequest urgent = w.request(9, prompt_of(150, 9), 20);
  w.submit(std::move(urgent));
  for (int i = 0; i < 4; ++i) w.deliver(1);
  EXPECT_GT(w.router.stats().pauses, 0U);
  w.run_to_end();
  for (const RequestId id : {1, 2, 3, 9}) w.expect_complete(id);
  const auto place = [&](RequestId id) {
    return std::find(w.end_order.begin(), w.end_order.end(), id) - w.end_order.begin();
  };
  EXPECT_LT(place(9), std::max(place(2), place(3)));
  expect_empty(w);
}

TEST(Router, NobodyIsPausedForAnEqualOrLowerPriority) {
  World w;
  w.add_replica(1, 400, 8);
  for (RequestId id = 1; id <= 3; ++id) w.submit(id, prompt_of(60, static_cast<int32_t>(id)), 60);
  for (int i = 0; i < 6; ++i) w.deliver(1);
  for (const RequestId id : {8, 9}) {
    TokenizedRequest r = w.request(id, prompt_of(150, static_cast<int32_t>(id)), 20);
    r.priority = id == 9 ? 1 : 0;
    w.submit(std::move(r));
  }
  w.run_to_end();
  EXPECT_EQ(w.router.stats().pauses, 0U);
}

TEST(Router, AStreamOfUrgentRequestsStarvesNobody) {
  World w;
  w.add_replica(1, 400, 2);
  const auto add = [&](RequestId id, int32_t priority) {
    TokenizedRequest r = w.request(id, prompt_of(40, static_cast<int32_t>(id)), 30);
    r.priority = priority;
    w.submit(std::move(r));
  };
  RequestId next = 1;
  for (; next <= 3; ++next) add(next, 5);
  // Always four urgent ones in the queue.
  int32_t delivered = 0;
  while (!(w.ends.contains(1) && w.ends.contains(2) && w.ends.contains(3)) && delivered < 20'000) {
    while (w.router.stats().queued < 5) add(next++, 0);
    w.deliver(1);
    ++delivered;
  }
  for (RequestId id = 1; id <= 3; ++id) EXPECT_TRUE(w.ends.contains(id)) << id;
  EXPECT_GT(next, 20U);  // and the urgent ones went first
  w.run_to_end();
  for (RequestId id = 1; id < next; ++id) w.expect_complete(id);
}

TEST(Router, WeightsDivideTheWorkAndIdleTimeIsNotWasted) {
  World w({.max_context = 4096, .max_queue = 1000, .tenant_weights = {{1, 3.0}, {2, 1.0}}});
  w.add_replica(1, 2048, 2);
  RequestId next = 1;
  const auto add = [&](uint64_t tenant) {
    TokenizedRequest r = w.request(next, prompt_of(10, static_cast<int32_t>(next)), 8);
    r.tenant = tenant;
    w.submit(std::move(r));
    ++next;
  };
  for (int i = 0; i < 120; ++i) add(1);
  for (int i = 0; i < 120; ++i) add(2);
  const auto ended_of_1 = [&] {
    return std::count_if(w.end_order.begin(), w.end_order.end(),
                         [](RequestId id) { return id <= 120; });
  };
  while (w.end_order.size() < 80) w.deliver(1);
  EXPECT_NEAR(static_cast<double>(ended_of_1()), 60, 6);
  // Once the heavier one has nothing left, the other has both rows: nothing idles.
  while (ended_of_1() < 120) w.deliver(1);
  w.deliver(1);
  EXPECT_EQ(w.router.stats().running, 2);
  w.run_to_end();
  for (RequestId id = 1; id < next; ++id) w.expect_complete(id);
}

// A replica that has taught the router its speed: 0.1 s a step of at most 64 tokens.
World& slow(World& w) {
  w.compute_us = 100'000;
  w.add_replica(1, 4096, 1);
  for (RequestId id = 1; id <= 6; ++id) w.submit(id, prompt_of(600, static_cast<int32_t>(id)), 20);
  w.run_to_end();
  return w;
}

TEST(Router, ATargetThatBecomesImpossibleInTheQueueIsRefusedThen) {
  World w;
  slow(w);
  w.submit(10, prompt_of(20, 10), 400);  // holds the only row
  TokenizedRequest r = w.request(11, prompt_of(100, 11), 5);
  r.ttft_target = 60'000'000;
  w.submit(std::move(r));
  EXPECT_FALSE(w.ends.contains(11));
  w.now += 30'000'000;
  w.router.tick(w.now);
  w.plan();
  EXPECT_FALSE(w.ends.contains(11));
  w.now += 29'950'000;  // less than its prefill takes is left
  w.router.tick(w.now);
  w.plan();
  ASSERT_TRUE(w.errors.contains(11));
  EXPECT_EQ(w.errors.at(11).code, ErrorCode::kDeadlineExceeded);
  EXPECT_THAT(w.errors.at(11).message, testing::HasSubstr("predicted time to the first token is"));
  w.run_to_end();
  w.expect_complete(10);
}

TEST(Router, ALateRequestMayGoOnBehindAllOthersInstead) {
  World w({.max_context = 4096, .max_queue = 1000, .demote_late = true});
  slow(w);
  w.submit(10, prompt_of(20, 10), 100);
  TokenizedRequest r = w.request(11, prompt_of(100, 11), 5);
  r.ttft_target = 60'000'000;
  w.submit(std::move(r));
  w.now += 61'000'000;
  w.router.tick(w.now);
  w.submit(12, prompt_of(30, 12), 5);
  w.run_to_end();
  for (const RequestId id : {10, 11, 12}) w.expect_complete(id);
  EXPECT_EQ(w.end_order.back(), 11U);
}

TEST(Router, WhoMustStartSoonestStartsFirst) {
  World w;
  slow(w);
  w.submit(10, prompt_of(20, 10), 40);
  for (const RequestId id : {11, 12, 13}) {
    TokenizedRequest r = w.request(id, prompt_of(30, static_cast<int32_t>(id)), 5);
    if (id != 11) r.ttft_target = id == 12 ? 9'000'000 : 7'000'000;
    w.submit(std::move(r));
  }
  w.run_to_end();
  EXPECT_EQ(std::vector<RequestId>(w.end_order.end() - 4, w.end_order.end()),
            (std::vector<RequestId>{10, 13, 12, 11}));
}

TEST(Router, AReplicaThatDoesNotAnswerIsOverdue) {
  World w({.max_context = 4096, .max_queue = 1000, .step_timeout = 30'000'000});
  w.compute_us = 100'000;
  w.add_replica(1, 4096);
  w.add_replica(2, 4096);
  w.now += 100'000'000;
  EXPECT_THAT(w.router.overdue(w.now), testing::IsEmpty());  // nothing was asked of them
  for (RequestId id = 1; id <= 4; ++id) w.submit(id, prompt_of(20, static_cast<int32_t>(id)), 40);
  for (int i = 0; i < 5; ++i) {
    w.deliver(1);
    w.deliver(2);
  }
  w.now += 29'000'000;
  EXPECT_THAT(w.router.overdue(w.now), testing::IsEmpty());
  w.deliver(2);
  w.now += 2'000'000;
  ASSERT_THAT(w.router.overdue(w.now), testing::ElementsAre(1U));
  w.lose_replica(1);  // what the shell then does
  w.run_to_end();
  for (RequestId id = 1; id <= 4; ++id) w.expect_complete(id);
}

TEST(Router, TenantsShareNoPrefixesUnlessToldTo) {
  for (const bool share : {false, true}) {
    World w({.max_context = 4096, .max_queue = 1000, .share_prefixes = share});
    w.add_replica(1, 2048);
    for (const RequestId id : {1, 2, 3}) {
      TokenizedRequest r = w.request(id, prompt_of(60, 3), 2);
      r.tenant = id == 2 ? 2 : 1;
      w.submit(std::move(r));
      w.run_to_end();
    }
    EXPECT_EQ(w.cached[2], share ? 59 : 0);
    EXPECT_EQ(w.cached[3], 59);
  }
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
