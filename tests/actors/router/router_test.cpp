#include "actors/router/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace troupe {
namespace {

constexpr int32_t kStop = 7;

// The fake model: the next token depends on the whole sequence and on nothing else, so that any
// mix-up of rows, slots or results shows as a wrong token.
int32_t next_token(const std::vector<int32_t>& sequence) {
  uint64_t h = 1469598103934665603ULL;
  for (const int32_t t : sequence) h = (h ^ static_cast<uint64_t>(t)) * 1099511628211ULL;
  return static_cast<int32_t>((h >> 33U) % 300);  // kStop comes once in 300
}

/// A replica's ranks: keep what was written into each slot and read it back through the rows.
class FakeReplica {
 public:
  explicit FakeReplica(const ReplicaInfo& info)
      : info_(info), pool_(static_cast<size_t>(info.n_slots), -1) {}

  StepResult run(const StepPlan& plan) {
    StepResult result;
    result.epoch = plan.epoch;
    result.step = plan.step;
    result.digest = plan.step * 31 + plan.slots.size();
    for (const int32_t row : plan.closed) EXPECT_EQ(rows_.erase(row), 1U) << "row " << row;
    for (const OpenRow& open : plan.opened) {
      EXPECT_LT(open.row, info_.max_rows);
      EXPECT_TRUE(rows_.emplace(open.row, Row{open.prefix_slots, -1}).second) << open.row;
    }
    size_t token = 0;
    size_t slot = 0;
    for (const RowWork& work : plan.work) {
      Row& row = rows_.at(work.row);
      for (int32_t i = 0; i < work.n_tokens; ++i) {
        const int32_t input = work.from_last_sample ? row.last : plan.tokens.at(token++);
        const int32_t s = plan.slots.at(slot++);
        pool_.at(static_cast<size_t>(s)) = input;
        row.slots.push_back(s);
      }
      if (!work.sample) continue;
      std::vector<int32_t> sequence;
      for (const int32_t s : row.slots) sequence.push_back(pool_.at(static_cast<size_t>(s)));
      row.last = next_token(sequence);
      SampledToken sampled;
      sampled.row = work.row;
      sampled.token = row.last;
      result.sampled.push_back(sampled);
    }
    EXPECT_EQ(token, plan.tokens.size());
    EXPECT_EQ(slot, plan.slots.size());
    EXPECT_LE(static_cast<int32_t>(slot), info_.max_step_tokens);
    return result;
  }

 private:
  struct Row {
    std::vector<int32_t> slots;
    int32_t last = -1;
  };
  ReplicaInfo info_;
  std::vector<int32_t> pool_;
  std::map<int32_t, Row> rows_;
};

/// A router, its replicas and everything that it announced.
class World {
 public:
  explicit World(RouterLimits limits = {.max_context = 4096, .max_queue = 1000}) : router(limits) {}

  void add_replica(uint64_t job, int32_t n_slots, int32_t max_rows = 8, int32_t step_tokens = 64) {
    const ReplicaInfo info{job, 1, n_slots, max_rows, step_tokens};
    router.replica_ready(info, now);
    replicas.emplace(job, FakeReplica(info));
  }
  void lose_replica(uint64_t job) {
    router.replica_lost(job, ++now);
    replicas.erase(job);
    results.erase(job);
    plan();
  }
  void submit(RequestId id, std::vector<int32_t> prompt, int32_t max_tokens) {
    TokenizedRequest r;
    r.id = id;
    r.prompt = prompt;
    r.max_tokens = max_tokens;
    r.stop_tokens = {kStop};
    r.submitted = ++now;
    prompts[id] = std::move(prompt);
    limits_of[id] = max_tokens;
    router.submit(std::move(r), now);
    plan();
  }
  // Lets the router decide; the plans run at once, their results wait to be delivered.
  void plan() {
    Decision d = router.plan(now);
    for (auto& [job, step] : d.plans) {
      results[job].push_back(replicas.at(job).run(step));
      EXPECT_LE(results[job].size(), 2U);
    }
    for (RequestUpdate& u : d.updates) take(u);
    router.check_invariants();
  }
  bool deliver(uint64_t job) {
    if (results[job].empty()) return false;
    const StepResult result = std::move(results[job].front());
    results[job].pop_front();
    EXPECT_TRUE(router.apply(job, 0, result, ++now).ok());
    plan();
    return true;
  }
  void run_to_end() {
    for (bool any = true; any;) {
      any = false;
      std::vector<uint64_t> jobs;
      for (const auto& [job, r] : replicas) jobs.push_back(job);
      for (const uint64_t job : jobs) any = deliver(job) || any;
    }
  }
  // What a request alone would have produced.
  [[nodiscard]] std::vector<int32_t> expected(RequestId id, FinishReason* reason) const {
    std::vector<int32_t> sequence = prompts.at(id);
    std::vector<int32_t> output;
    *reason = FinishReason::kLength;
    while (static_cast<int32_t>(output.size()) < limits_of.at(id)) {
      const int32_t token = next_token(sequence);
      if (token == kStop) {
        *reason = FinishReason::kStop;
        break;
      }
      sequence.push_back(token);
      output.push_back(token);
    }
    return output;
  }
  void expect_complete(RequestId id) const {
    FinishReason reason{};
    EXPECT_EQ(outputs.at(id), expected(id, &reason)) << "request " << id;
    ASSERT_TRUE(ends.contains(id)) << "request " << id;
    EXPECT_EQ(ends.at(id), reason) << "request " << id;
  }

  Router router;
  Micros now = 1;
  std::map<uint64_t, FakeReplica> replicas;
  std::map<uint64_t, std::deque<StepResult>> results;
  std::map<RequestId, std::vector<int32_t>> prompts;
  std::map<RequestId, int32_t> limits_of;
  std::map<RequestId, std::vector<int32_t>> outputs;
  std::map<RequestId, FinishReason> ends;
  std::map<RequestId, Error> errors;

 private:
  void take(const RequestUpdate& u) {
    EXPECT_FALSE(ends.contains(u.id)) << "request " << u.id << " goes on after its end";
    outputs[u.id];
    for (const SampledToken& t : u.tokens) outputs[u.id].push_back(t.token);
    if (u.kind != RequestUpdate::Kind::kFinished) return;
    ends[u.id] = u.reason;
    errors[u.id] = u.error;
  }
};

std::vector<int32_t> prompt_of(int32_t length, int32_t salt) {
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < length; ++i) prompt.push_back((i * 31 + salt * 17) % 50);
  return prompt;
}

void expect_empty(const World& w) {
  const EngineStats s = w.router.stats();
  EXPECT_EQ(s.running + s.queued + s.paused, 0);
  EXPECT_EQ(s.slots_used, 0);
}

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

// Random arrivals, cancels, lost and joining replicas: every request that is not cancelled gets
// exactly the tokens that it would have got alone, and the books balance after every event.
TEST(Router, RandomTrafficIsExact) {
  uint64_t pauses = 0;
  for (uint32_t seed = 1; seed <= 150; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto pick = [&](int32_t low, int32_t high) {
      return std::uniform_int_distribution<int32_t>(low, high)(random);
    };
    World w;
    uint64_t next_job = 1;
    RequestId next_id = 1;
    std::set<RequestId> cancelled;
    w.add_replica(next_job++, pick(120, 400), pick(1, 8), pick(4, 64));
    for (int32_t event = 0; event < 300; ++event) {
      const int32_t dice = pick(0, 99);
      if (dice < 15) {
        w.submit(next_id, prompt_of(pick(1, 20), pick(0, 1000)), pick(1, 100));
        ++next_id;
      } else if (dice < 20 && next_id > 1) {
        const auto id = static_cast<RequestId>(pick(1, static_cast<int32_t>(next_id) - 1));
        if (!w.ends.contains(id)) cancelled.insert(id);
        w.router.cancel(id, ++w.now);
        w.plan();
      } else if (dice < 22 && !w.replicas.empty()) {
        w.lose_replica(w.replicas.begin()->first);
      } else if (dice < 25 && w.replicas.size() < 3) {
        w.add_replica(next_job++, pick(120, 400), pick(1, 8), pick(4, 64));
        w.plan();
      } else if (!w.replicas.empty()) {
        auto it = w.replicas.begin();
        std::advance(it, pick(0, static_cast<int32_t>(w.replicas.size()) - 1));
        w.deliver(it->first);
      }
    }
    if (w.replicas.empty()) {
      w.add_replica(next_job, 400);
      w.plan();
    }
    w.run_to_end();
    for (RequestId id = 1; id < next_id; ++id) {
      if (!cancelled.contains(id)) w.expect_complete(id);
    }
    expect_empty(w);
    pauses += w.router.stats().pauses;
    if (HasFailure()) return;
  }
  EXPECT_GT(pauses, 100U);  // the traffic did exhaust pools
}

}  // namespace
}  // namespace troupe
