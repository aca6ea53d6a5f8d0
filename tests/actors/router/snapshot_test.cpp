// The picture of the dashboard, against the router's own books.
#include "actors/step_log.h"
#include "tests/support/router_world.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <utility>
#include <vector>

namespace troupe {
namespace {

using test::prompt_of;
using test::RouterWorld;
using Cell = EngineSnapshot::Cell;
using Wait = EngineSnapshot::Wait;

std::map<int32_t, int32_t> slots_by_owner(const EngineSnapshot::Replica& replica) {
  std::map<int32_t, int32_t> out;
  for (const Cell& cell : replica.cells) out[cell.owner] += cell.used;
  return out;
}

void expect_as_in_the_books(RouterWorld& w) {
  const EngineSnapshot s = w.router.snapshot(w.now);
  const EngineStats stats = w.router.stats();
  int64_t used = 0;
  int64_t cached = 0;
  int64_t total = 0;
  for (const auto& replica : s.replicas) {
    auto slots = slots_by_owner(replica);
    EXPECT_EQ(slots[Cell::kFree], 0);
    EXPECT_EQ(slots[Cell::kCached], replica.cached);
    for (const auto& [owner, n] : slots) used += owner >= Cell::kShared ? n : 0;
    cached += replica.cached;
    total += replica.slots;
  }
  EXPECT_EQ(used, stats.slots_used);
  EXPECT_EQ(cached, stats.slots_cached);
  EXPECT_EQ(total, stats.slots_total);
  EXPECT_EQ(s.waiting_total, stats.queued + stats.paused);
  for (const auto& r : s.running) EXPECT_LT(r.replica, static_cast<int32_t>(s.replicas.size()));
}

TEST(RouterSnapshot, ShowsWhoHoldsWhichSlots) {
  RouterWorld w;
  w.add_replica(1, 1000);
  const auto submit = [&w](RequestId id, std::vector<int32_t> prompt) {
    TokenizedRequest r = w.request(id, std::move(prompt), 100);
    r.stop_tokens.clear();  // runs to its end
    w.submit(std::move(r));
  };
  submit(1, prompt_of(40, 1));
  submit(2, prompt_of(40, 1));  // the same prompt
  submit(3, prompt_of(50, 2));
  for (int i = 0; i < 8; ++i) w.deliver(1);
  const EngineSnapshot s = w.router.snapshot(w.now);
  ASSERT_EQ(s.running.size(), 3U);
  ASSERT_EQ(s.replicas.size(), 1U);
  EXPECT_EQ(s.replicas[0].slots_per_cell, 1);
  EXPECT_EQ(s.replicas[0].cells.size(), 1000U);
  EXPECT_EQ(s.replicas[0].in_flight, 2);
  auto slots = slots_by_owner(s.replicas[0]);
  EXPECT_EQ(slots[Cell::kShared], 39);  // the last token of a prompt is always computed
  EXPECT_EQ(slots[Cell::kFirstRequest + 2], s.running[2].computed);
  EXPECT_EQ(s.running[1].cached, 39);
  EXPECT_GT(s.running[0].output, 0);
  expect_as_in_the_books(w);
  w.run_to_end();
  expect_as_in_the_books(w);
}

TEST(RouterSnapshot, ALargePoolHasSeveralSlotsToACell) {
  RouterWorld w({.max_context = 1 << 20, .max_queue = 10});
  w.add_replica(1, 100'000);
  w.submit(1, prompt_of(60, 1), 10);
  const EngineSnapshot s = w.router.snapshot(w.now);
  EXPECT_EQ(s.replicas[0].slots_per_cell, 7);
  EXPECT_EQ(s.replicas[0].cells.size(), (100'000U + 6) / 7);
  EXPECT_LE(s.replicas[0].cells.size(), static_cast<size_t>(EngineSnapshot::kMaxCells));
  expect_as_in_the_books(w);
}

TEST(RouterSnapshot, SaysWhyRequestsWait) {
  RouterWorld w;
  w.submit(1, prompt_of(10, 1), 20);
  EXPECT_EQ(w.router.snapshot(w.now).waiting.at(0).why, Wait::kNoReplica);
  w.add_replica(1, 200, 2);
  w.plan();
  w.submit(2, prompt_of(150, 2), 50);  // fits the pool, but not beside the first
  const EngineSnapshot slots = w.router.snapshot(w.now);
  ASSERT_EQ(slots.waiting.size(), 1U);
  EXPECT_EQ(slots.waiting[0].id, 2U);
  EXPECT_EQ(slots.waiting[0].why, Wait::kSlots);
  EXPECT_GT(slots.waiting[0].need, slots.waiting[0].free);
  EXPECT_GE(slots.waiting[0].need, 151);
  EXPECT_LE(slots.waiting[0].free, 200);
  w.submit(3, prompt_of(5, 3), 5);  // overtakes
  w.submit(4, prompt_of(5, 4), 5);
  const EngineSnapshot rows = w.router.snapshot(w.now);
  ASSERT_EQ(rows.running.size(), 2U);
  EXPECT_EQ(rows.waiting.at(0).why, Wait::kRows);
  w.run_to_end();
  EXPECT_TRUE(w.router.snapshot(w.now).waiting.empty());
}

TEST(RouterSnapshot, AgreesWithTheBooksUnderLoad) {
  RouterWorld w;
  w.add_replica(1, 300, 6);
  w.add_replica(2, 200, 6);
  for (RequestId id = 1; id <= 40; ++id) {
    w.submit(id, prompt_of(20 + static_cast<int32_t>(id % 7) * 8, static_cast<int32_t>(id % 5)),
             60);
    w.deliver(1 + id % 2);
    expect_as_in_the_books(w);
    if (id == 20) w.lose_replica(2);
    if (id == 30) w.add_replica(2, 200, 6);
  }
  while (w.deliver(1) || w.deliver(2)) expect_as_in_the_books(w);
}

TEST(StepLog, KeepsStepsAndAnswers) {
  StepLog log;
  StepPlan plan;
  plan.work.resize(3);
  plan.slots.resize(10);
  StepResult result;
  log.done(5, 0, result, 1);  // nobody watched when it was planned
  for (uint64_t step = 1; step <= StepLog::kSteps + 10; ++step) {
    plan.step = step;
    log.planned(5, plan);
  }
  result.step = StepLog::kSteps + 9;
  result.timings = {300, 20};
  log.done(5, 0, result, 100);
  result.step -= 1;
  log.done(5, 1, result, 90);
  EngineSnapshot::Replica replica;
  log.describe(5, 3, 150, replica);
  ASSERT_EQ(replica.steps.size(), StepLog::kSteps);
  EXPECT_EQ(replica.steps.back().compute_us, -1) << "still in flight";
  const EngineSnapshot::Step& done = replica.steps[replica.steps.size() - 2];
  EXPECT_EQ(done.step, StepLog::kSteps + 9);
  EXPECT_EQ(done.compute_us, 300);
  EXPECT_EQ(done.idle_us, 20);
  EXPECT_EQ(done.tokens, 10);
  EXPECT_EQ(done.rows, 3);
  ASSERT_EQ(replica.ranks.size(), 3U);
  EXPECT_EQ(replica.ranks[0].age_us, 50);
  EXPECT_EQ(replica.ranks[1].step, StepLog::kSteps + 8);
  EXPECT_EQ(replica.ranks[2].age_us, -1);
  log.forget(5);
  EngineSnapshot::Replica forgotten;
  log.describe(5, 1, 150, forgotten);
  EXPECT_TRUE(forgotten.steps.empty());
}

}  // namespace
}  // namespace troupe
