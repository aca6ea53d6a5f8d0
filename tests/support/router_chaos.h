#pragma once

#include "tests/support/router_world.h"

#include <cstdint>
#include <iterator>
#include <string>

namespace troupe::test {

/// One run of random traffic with everything that can go wrong: cancels, stop strings, lost and
/// joining replicas, smaller pools, dropped, duplicated, reordered and stale results, results of
/// ranks that disagree. Returns what was wrong, empty if nothing. The router's own checks abort.
inline std::string chaos(uint32_t seed, uint64_t* pauses = nullptr) {
  std::mt19937 random(seed);
  const auto pick = [&](int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(random);
  };
  RouterLimits limits{.max_context = 4096, .max_queue = 1000};
  limits.plans_in_flight = pick(1, 2);
  limits.max_overtakes = pick(0, 3);
  limits.prefix_cache = pick(0, 7) > 0;
  limits.decode_slowdown = pick(0, 2) == 0 ? 1.3 : 0;
  limits.plan_ahead = pick(0, 1) * 25'000;
  limits.demote_late = pick(0, 1) == 0;
  limits.share_prefixes = pick(0, 1) == 0;
  RouterWorld w(limits);
  w.compute_us = static_cast<uint32_t>(pick(0, 2) * 3000);
  uint64_t next_job = 1;
  RequestId next_id = 1;
  std::set<RequestId> left;  // cancelled, or finished by a stop string
  std::vector<StepResult> old;
  std::vector<uint64_t> old_jobs;
  const auto add_replica = [&] {
    // Sometimes a job comes back under its old number: a new epoch.
    uint64_t job = next_job;
    if (next_job > 1 && !w.replicas.contains(next_job - 1) && pick(0, 1) == 0) --job;
    next_job = std::max(next_job, job + 1);
    w.add_replica(job, pick(120, 400), pick(1, 8), pick(4, 64), pick(1, 3));
  };
  const auto some_id = [&] {
    return static_cast<RequestId>(pick(1, static_cast<int32_t>(next_id)));
  };
  add_replica();
  if (pick(0, 2) == 0) w.teach_short_outputs(1, 40);
  for (int32_t event = 0; event < 200; ++event) {
    const int32_t dice = pick(0, 99);
    const bool any = !w.replicas.empty();
    uint64_t job = 0;
    if (any) {
      auto it = w.replicas.begin();
      std::advance(it, pick(0, static_cast<int32_t>(w.replicas.size()) - 1));
      job = it->first;
    }
    if (dice < 15) {
      // Few different prompts, so that prefixes are shared.
      TokenizedRequest r = w.request(next_id++, prompt_of(pick(1, 40), pick(0, 3)), pick(1, 80));
      r.priority = pick(0, 4) == 0 ? pick(-1, 1) : 0;
      if (pick(0, 9) == 0) r.ttft_target = pick(1000, 40'000);
      r.tenant = static_cast<uint64_t>(pick(0, 2));
      r.cache_salt = static_cast<uint64_t>(pick(0, 4) == 0);
      w.submit(std::move(r));
    } else if (dice < 19 && next_id > 1) {
      const RequestId id = some_id();
      if (!w.ends.contains(id)) left.insert(id);
      if (pick(0, 1) == 0) {
        w.router.cancel(id, ++w.now);
      } else if (!w.ends.contains(id) && w.outputs.contains(id)) {
        w.router.finish(id, ++w.now);
        w.ends[id] = FinishReason::kStop;
      }
      w.plan();
    } else if (dice < 21 && any) {
      w.lose_replica(job);
    } else if (dice < 24 && w.replicas.size() < 3) {
      add_replica();
      w.plan();
    } else if (dice < 25 && any && !w.results[job].empty()) {
      w.results[job].pop_front();  // dropped: the next report shows it, or the replica dies
      if (!w.deliver(job) && w.replicas.contains(job)) w.lose_replica(job);
    } else if (dice < 28 && !old.empty()) {
      // Duplicates, and reports of replicas that are long gone.
      const auto i = static_cast<size_t>(pick(0, static_cast<int32_t>(old.size()) - 1));
      const uint64_t before = w.router.stats().stale_messages;
      if (!w.router.apply(old_jobs[i], 0, old[i], ++w.now).ok() ||
          w.router.stats().stale_messages != before + 1) {
        w.faults.emplace_back("old news was taken for new");
      }
      w.plan();
    } else if (dice < 29 && any && !w.results[job].empty() &&
               w.replicas.at(job).info().n_ranks > 1) {
      StepResult odd = w.results[job].front();
      ++odd.digest;
      const bool first = w.router.apply(job, 1, odd, ++w.now).ok();
      if (first && w.router.apply(job, 0, w.results[job].front(), ++w.now).ok()) {
        w.faults.emplace_back("ranks that disagree were believed");
      }
      w.lose_replica(job);
    } else if (dice < 30) {
      w.router.reset_prefix_cache();
      w.router.tick(w.now);
      w.plan();
    } else if (any) {
      if (!w.results[job].empty() && pick(0, 9) == 0) {
        old.push_back(w.results[job].front());
        old_jobs.push_back(job);
      }
      const size_t n_old = old.size();
      if (!w.deliver(job, static_cast<size_t>(pick(1, 6))) && n_old > 0 && old_jobs.back() == job &&
          !w.replicas.contains(job)) {
        old.pop_back();
        old_jobs.pop_back();
      }
    }
    if (!w.faults.empty()) return w.faults.front();
  }
  if (w.replicas.empty()) {
    w.add_replica(next_job++, 400);
    w.plan();
  }
  w.run_to_end();
  // Some may have waited for a larger pool than the ones that were left.
  w.add_replica(next_job, 400);
  w.plan();
  w.run_to_end();
  for (RequestId id = 1; id < next_id; ++id) {
    const bool late = w.errors.contains(id) && w.errors.at(id).code == ErrorCode::kDeadlineExceeded;
    if (!left.contains(id) && !late && !w.complete(id)) {
      return "request " + std::to_string(id) + " did not get exactly its tokens";
    }
  }
  if (pauses != nullptr) *pauses += w.router.stats().pauses;
  if (!w.empty()) return "something is left when all requests have ended";
  return w.faults.empty() ? std::string() : w.faults.front();
}

}  // namespace troupe::test
