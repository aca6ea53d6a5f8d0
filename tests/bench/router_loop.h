#pragma once

#include "tests/bench/router_sim.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <stdexcept>
#include <unordered_map>
#include <utility>
#include <vector>

namespace troupe::bench {

/// The real Router against modelled replicas in virtual time. A replica runs plans one after the
/// other, each for as long as StepCost says; a request's stop token comes when it has produced its
/// job's output. The seed of a request is its job.
class RouterLoop {
 public:
  static constexpr int32_t kStop = 2;

  RouterLoop(const RouterLimits& limits, ReplicaInfo info, const StepCost& cost,
             int32_t n_replicas = 1)
      : router(limits), cost_(cost) {
    for (int32_t i = 0; i < n_replicas; ++i, ++info.job) {
      router.replica_ready(info, 0);
      devices_[info.job];
    }
  }

  void submit(RequestId id, const Job& job, std::vector<int32_t> prompt) {
    submit(id, job, std::move(prompt), TokenizedRequest());
  }
  /// `r` has whatever else the request asks for.
  void submit(RequestId id, const Job& job, std::vector<int32_t> prompt, TokenizedRequest r) {
    r.id = id;
    r.prompt = std::move(prompt);
    r.max_tokens = job.max_tokens;
    r.sampling.seed = id;
    r.stop_tokens = {kStop};
    r.submitted = now();
    outputs_[id] = job.output;
    router.submit(std::move(r), now());
  }

  /// Time passes to `at`, unless a result comes first.
  bool wait_until(double at) {
    if (const auto* next = first(); next != nullptr && next->flights.front().end <= at)
      return false;
    clock_ = std::max(clock_, at);
    router.tick(now());
    plan();
    return true;
  }
  void plan() { collect(router.plan(now())); }

  /// Delivers the next result and plans. False when nothing is in flight.
  bool step() {
    using Clock = std::chrono::steady_clock;
    const auto planning = Clock::now();
    Decision decision = router.plan(now());
    const auto planned = Clock::now();
    collect(std::move(decision));
    Device* const device = first();
    if (device == nullptr) return false;
    Flight flight = std::move(device->flights.front());
    device->flights.pop_front();
    clock_ = std::max(clock_, flight.end);
    const auto applying = Clock::now();
    const Status ok = router.apply(flight.job, 0, flight.result, now());
    decided_us =
        std::chrono::duration<double, std::micro>((Clock::now() - applying) + (planned - planning))
            .count();
    if (!ok) throw std::runtime_error(ok.error().message);
    return true;
  }
  void run() {
    while (step()) {
    }
    report.seconds = clock_ * 1e-6;
    report.pool_use /= static_cast<double>(std::max<int64_t>(1, report.steps));
    report.evictions = static_cast<int64_t>(router.stats().pauses);
  }

  [[nodiscard]] Micros now() const { return static_cast<Micros>(clock_); }

  Router router;
  SimReport report;
  double decided_us = 0;  // of the last step: plan and apply
  std::function<void(const RequestUpdate&, Micros)> on_update;

 private:
  struct Row {
    int32_t length = 0;
    int32_t known = 0;  // length when its output began
    RequestId id = 0;
  };
  struct Flight {
    uint64_t job = 0;
    double end = 0;
    StepResult result;
  };
  struct Device {
    std::deque<Flight> flights;
    std::map<int32_t, Row> rows;
    double free_at = 0;
  };

  /// Whose result comes next, null if nothing is in flight.
  Device* first() {
    Device* best = nullptr;
    for (auto& [job, device] : devices_) {
      if (device.flights.empty()) continue;
      if (best == nullptr || device.flights.front().end < best->flights.front().end) best = &device;
    }
    return best;
  }

  void collect(Decision&& decision) {
    for (const auto& [job, plan] : decision.plans) execute(job, plan);
    if (!on_update) return;
    for (const RequestUpdate& u : decision.updates) on_update(u, now());
  }

  void execute(uint64_t job, const StepPlan& plan) {
    Device& device = devices_.at(job);
    Flight flight;
    flight.job = job;
    flight.result.epoch = plan.epoch;
    flight.result.step = plan.step;
    for (const int32_t row : plan.closed) device.rows.erase(row);
    for (const OpenRow& open : plan.opened) {
      device.rows[open.row] = {static_cast<int32_t>(open.prefix_slots.size()), open.n_prompt,
                               open.sampling.seed};
    }
    StepShape shape;
    for (const RowWork& work : plan.work) {
      Row& row = device.rows.at(work.row);
      if (work.n_tokens == 1) {
        ++shape.decodes;
        shape.decode_context += row.length + 1;
      } else {
        shape.prefill += work.n_tokens;
        shape.prefill_context += int64_t{work.n_tokens} * (row.length + work.n_tokens / 2);
      }
      row.length += work.n_tokens;
      if (!work.sample) continue;
      SampledToken sampled;
      sampled.row = work.row;
      // The token after `length` known ones is output number length - known + 1.
      sampled.token = row.length - row.known >= outputs_.at(row.id) ? kStop : 3;
      flight.result.sampled.push_back(std::move(sampled));
    }
    const double micros = cost_(shape);
    device.free_at = std::max(device.free_at, clock_) + micros;
    flight.end = device.free_at;
    flight.result.timings.compute_us = static_cast<uint32_t>(micros);
    ++report.steps;
    report.computed += shape.decodes + shape.prefill;
    report.prefilled += shape.prefill;
    const EngineStats stats = router.stats();
    report.pool_use +=
        static_cast<double>(stats.slots_used) / static_cast<double>(stats.slots_total);
    device.flights.push_back(std::move(flight));
  }

  StepCost cost_;
  std::map<uint64_t, Device> devices_;  // by job
  std::unordered_map<RequestId, int32_t> outputs_;
  double clock_ = 0;
};

inline SimReport run_router(const Workload& workload, const RouterLimits& limits,
                            const ReplicaInfo& info, const StepCost& cost) {
  RouterLoop loop(limits, info, cost);
  RequestId id = 0;
  for (const Job& job : workload.jobs) {
    ++id;
    std::vector<int32_t> prompt(static_cast<size_t>(job.input), 5);
    prompt[0] = 100 + static_cast<int32_t>(id);  // nothing to share
    loop.submit(id, job, std::move(prompt));
  }
  loop.run();
  return loop.report;
}

}  // namespace troupe::bench
