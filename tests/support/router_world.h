#pragma once

#include "actors/router/router.h"

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

/// The router against replicas that have a pool and a model without weights. Knows no test
/// framework: what goes wrong is collected in `faults`.
namespace troupe::test {

constexpr int32_t kStop = 7;

/// The fake model: the next token depends on the whole sequence and on nothing else, so that any
/// mix-up of rows, slots or results shows as a wrong token. kStop comes once in 300.
inline int32_t next_token(const std::vector<int32_t>& sequence) {
  uint64_t h = 1469598103934665603ULL;
  for (const int32_t t : sequence) h = (h ^ static_cast<uint64_t>(t)) * 1099511628211ULL;
  return static_cast<int32_t>((h >> 33U) % 300);
}

inline std::vector<int32_t> prompt_of(int32_t length, int32_t salt) {
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < length; ++i) prompt.push_back((i * 31 + salt * 17) % 50);
  return prompt;
}

/// A replica's ranks: keep what was written into each slot and read it back through the rows.
class FakeReplica {
 public:
  FakeReplica(const ReplicaInfo& info, std::vector<std::string>& faults)
      : info_(info), faults_(&faults), pool_(static_cast<size_t>(info.n_slots), -1) {}

  StepResult run(const StepPlan& plan) {
    StepResult result;
    result.epoch = plan.epoch;
    result.step = plan.step;
    result.digest = plan.step * 31 + plan.slots.size();
    for (const int32_t row : plan.closed) expect(rows_.erase(row) == 1, "closes a closed row", row);
    for (const OpenRow& open : plan.opened) {
      expect(open.row >= 0 && open.row < info_.max_rows, "opens no row", open.row);
      expect(open.prefix_slots.size() == open.prefix_tokens.size(), "prefix sizes", open.row);
      expect(rows_.emplace(open.row, Row{open.prefix_slots, -1}).second, "opens an open row",
             open.row);
    }
    size_t token = 0;
    size_t slot = 0;
    for (const RowWork& work : plan.work) {
      if (!expect(rows_.contains(work.row), "works on a closed row", work.row)) return result;
      Row& row = rows_.at(work.row);
      for (int32_t i = 0; i < work.n_tokens; ++i) {
        const int32_t input = work.from_last_sample ? row.last : plan.tokens.at(token++);
        const int32_t s = plan.slots.at(slot++);
        pool_.at(static_cast<size_t>(s)) = input;
        row.slots.push_back(s);
        ++computed;
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
    expect(token == plan.tokens.size() && slot == plan.slots.size(), "list lengths", 0);
    expect(static_cast<int32_t>(slot) <= info_.max_step_tokens, "over the token budget", 0);
    return result;
  }

  [[nodiscard]] const ReplicaInfo& info() const { return info_; }
  int64_t computed = 0;  // tokens

 private:
  struct Row {
    std::vector<int32_t> slots;
    int32_t last = -1;
  };
  bool expect(bool good, const char* what, int32_t row) {
    if (!good) faults_->push_back(std::string("a plan: ") + what + ", row " + std::to_string(row));
    return good;
  }
  ReplicaInfo info_;
  std::vector<std::string>* faults_;
  std::vector<int32_t> pool_;
  std::map<int32_t, Row> rows_;
};

/// A router, its replicas and everything that it announced.
class RouterWorld {
 public:
  explicit RouterWorld(const RouterLimits& limits = {.max_context = 4096, .max_queue = 1000})
      : router(limits), limits_(limits) {}

  void add_replica(uint64_t job, int32_t n_slots, int32_t max_rows = 8, int32_t step_tokens = 64,
                   int32_t n_ranks = 1) {
    const ReplicaInfo info{job, n_ranks, n_slots, max_rows, step_tokens};
    router.replica_ready(info, now);
    replicas.emplace(job, FakeReplica(info, faults));
  }
  void lose_replica(uint64_t job) {
    router.replica_lost(job, ++now);
    replicas.erase(job);
    results.erase(job);
    plan();
  }
  TokenizedRequest request(RequestId id, std::vector<int32_t> prompt, int32_t max_tokens) {
    TokenizedRequest r;
    r.id = id;
    r.prompt = std::move(prompt);
    r.max_tokens = max_tokens;
    r.stop_tokens = {kStop};
    r.submitted = ++now;
    return r;
  }
  void submit(TokenizedRequest r) {
    prompts[r.id] = r.prompt;
    limits_of[r.id] = r.max_tokens;
    router.submit(std::move(r), now);
    plan();
  }
  void submit(RequestId id, std::vector<int32_t> prompt, int32_t max_tokens) {
    submit(request(id, std::move(prompt), max_tokens));
  }
  /// Lets the router decide; the plans run at once, their results wait to be delivered.
  void plan() {
    Decision d = router.plan(now);
    for (auto& [job, step] : d.plans) {
      results[job].push_back(replicas.at(job).run(step));
      if (static_cast<int32_t>(results[job].size()) > most_in_flight()) {
        faults.emplace_back("too many plans in flight");
      }
    }
    for (RequestUpdate& u : d.updates) take(u);
    router.check_invariants();
  }
  /// Delivers up to `n` results in one report. False when there was nothing, or when the router
  /// gave the replica up (which is then lost).
  bool deliver(uint64_t job, size_t n = 1) {
    std::vector<StepResult> report_of;
    for (; n > 0 && !results[job].empty(); --n) {
      StepResult& result = report_of.emplace_back(std::move(results[job].front()));
      results[job].pop_front();
      if (compute_us > 0) result.timings.compute_us = compute_us;
    }
    return !report_of.empty() && report(job, report_of);
  }
  bool report(uint64_t job, const std::vector<StepResult>& report_of) {
    ++now;
    bool fine = true;
    const int32_t n_ranks = replicas.at(job).info().n_ranks;
    for (int32_t rank = n_ranks - 1; rank >= 0; --rank) {
      for (const StepResult& result : report_of) {
        fine = fine && router.apply(job, rank, result, now).ok();
      }
    }
    if (fine) {
      plan();
    } else {
      lose_replica(job);
    }
    return fine;
  }
  void run_to_end() {
    for (bool any = true; any;) {
      any = false;
      std::vector<uint64_t> jobs;
      for (const auto& [job, r] : replicas) jobs.push_back(job);
      for (const uint64_t job : jobs) any = deliver(job) || any;
    }
  }
  /// Makes the router expect outputs of a few tokens, so that later ones exhaust the pool.
  void teach_short_outputs(uint64_t job, int32_t n = 100) {
    for (RequestId id = 1'000'001; n > 0; --n, ++id) {
      submit(id, prompt_of(2, static_cast<int32_t>(id % 1000)), 50);
      while (outputs[id].size() < 3 && !ends.contains(id)) deliver(job);
      router.finish(id, now);
      ends.emplace(id, FinishReason::kStop);
      run_to_end();
    }
  }
  /// What a request alone would have produced.
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
  [[nodiscard]] bool complete(RequestId id) const {
    FinishReason reason{};
    const std::vector<int32_t> output = expected(id, &reason);
    return ends.contains(id) && ends.at(id) == reason && outputs.at(id) == output;
  }
  /// After the end of all requests: nothing is held but cached prefixes, and they go on demand.
  [[nodiscard]] bool empty() {
    router.reset_prefix_cache();
    router.check_invariants();
    const EngineStats s = router.stats();
    return s.running + s.queued + s.paused == 0 && s.slots_used == 0 && s.slots_cached == 0;
  }

  Router router;
  Micros now = 1;
  uint32_t compute_us = 0;  // reported for every step, 0 = not
  std::map<uint64_t, FakeReplica> replicas;
  std::map<uint64_t, std::deque<StepResult>> results;
  std::map<RequestId, std::vector<int32_t>> prompts;
  std::map<RequestId, int32_t> limits_of;
  std::map<RequestId, std::vector<int32_t>> outputs;
  std::map<RequestId, FinishReason> ends;
  std::map<RequestId, Error> errors;
  std::map<RequestId, int32_t> cached;
  std::vector<RequestId> end_order;
  std::vector<std::string> faults;

 private:
  [[nodiscard]] int32_t most_in_flight() const {
    return limits_.plans_in_flight + (limits_.plan_ahead > 0 ? Router::kMaxAhead - 1 : 0);
  }
  void take(const RequestUpdate& u) {
    if (ends.contains(u.id)) {
      faults.push_back("request " + std::to_string(u.id) + " goes on after its end");
    }
    outputs[u.id];
    for (const SampledToken& t : u.tokens) outputs[u.id].push_back(t.token);
    if (u.kind == RequestUpdate::Kind::kTokens) cached[u.id] = u.cached_tokens;
    if (u.kind != RequestUpdate::Kind::kFinished) return;
    ends[u.id] = u.reason;
    errors[u.id] = u.error;
    end_order.push_back(u.id);
  }
  RouterLimits limits_;
};

}  // namespace troupe::test
