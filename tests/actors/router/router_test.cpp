#include "tests/support/router_world.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
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

}  // namespace
}  // namespace troupe
