#include "actors/sim/simulation.h"

#include "actors/router/recorded_router.h"
#include "gpu/base/check.h"
#include "gpu/sim/sim_executor.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <queue>
#include <utility>
#include <vector>

namespace troupe {
namespace {

constexpr uint64_t kStatsEvery = 16;  // steps between two looks at the pool
constexpr Micros kTick = 100'000;
constexpr int kMaxIdleTicks = 100;
constexpr uint64_t kProgressEvery = 4096;  // steps between two looks at the clock
constexpr int64_t kLookAhead = 1024;       // requests without a token that the router has beside
                                           // those that its rows could run

/// A modelled replica: one executor stands for all ranks, they do the same at the same time.
struct Device {
  std::unique_ptr<SimExecutor> executor;
  Micros free_at = 0;  // end of its newest step
};

/// The end of a replica's oldest step.
struct StepEnd {
  Micros at = 0;
  uint64_t order = 0;  // of creation, so that equal times have one order
  size_t device = 0;
  bool operator>(const StepEnd& other) const {
    return at != other.at ? at > other.at : order > other.order;
  }
};

/// What one request has seen so far.
struct Progress {
  Micros arrival = 0, first = 0, last = 0;
  int32_t tokens = 0;
};

Micros micros(double seconds) { return static_cast<Micros>(std::llround(seconds * 1e6)); }

Summary summarize(std::vector<double>& values) {
  Summary summary;
  if (values.empty()) return summary;
  std::sort(values.begin(), values.end());
  for (const double v : values) summary.mean += v;
  summary.mean /= static_cast<double>(values.size());
  const auto at = [&](double q) {
    return values[static_cast<size_t>(std::ceil(q * static_cast<double>(values.size()))) - 1];
  };
  summary.p50 = at(0.5);
  summary.p99 = at(0.99);
  return summary;
}

class Simulation {
 public:
  Simulation(const CostModel& model, const Workload& workload, const SimulationOptions& options,
             int32_t slots)
      : model_(model),
        workload_(workload),
        options_(options),
        slots_(slots),
        router_(simulation_limits(model, options), options.recorder),
        progress_(workload.requests.size()) {}

  Result<SimulationResult> run();

 private:
  void start_devices();
  [[nodiscard]] bool due(Micros now) const;
  void submit(size_t index, Micros now);
  void report_progress(Micros now);
  void finish_step(size_t device, Micros now);
  void plan(Micros now);
  void tick(Micros now);
  void note(const RequestUpdate& update, Micros now);
  SimulationResult result();

  const CostModel& model_;
  const Workload& workload_;
  const SimulationOptions& options_;
  int32_t slots_;
  RecordedRouter router_;
  SimulatedEnds ends_;
  std::vector<Device> devices_;
  std::priority_queue<StepEnd, std::vector<StepEnd>, std::greater<>> step_ends_;
  std::vector<Progress> progress_;
  uint64_t planned_ = 0, steps_ = 0;
  size_t next_ = 0;        // of the workload's requests
  int32_t open_ = 0;       // submitted, not ended
  int64_t tokenless_ = 0;  // of those: no token yet
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point reported_ = begin_;
  SimulationResult result_;
};

void Simulation::start_devices() {
  ends_.at.reserve(workload_.requests.size());
  for (const WorkloadRequest& r : workload_.requests) {
    ends_.at.push_back(r.max_tokens > r.output_tokens ? r.prompt_tokens + r.output_tokens : -1);
  }
  SimExecutorOptions executor;
  executor.n_slots = slots_;
  executor.max_rows = options_.max_rows;
  executor.vocab = model_.model().vocab;
  executor.ends = &ends_;
  for (int32_t i = 0; i < options_.dp; ++i) {
    devices_.push_back({std::make_unique<SimExecutor>(model_, executor), 0});
    ReplicaInfo info;
    info.job = devices_.size();
    info.n_ranks = 1;
    info.n_slots = slots_;
    info.max_rows = options_.max_rows;
    info.max_step_tokens = options_.max_step_tokens;
    router_.replica_ready(info, 0);
  }
}

void Simulation::submit(size_t index, Micros now) {
  const WorkloadRequest& from = workload_.requests[index];
  TokenizedRequest request;
  request.id = index + 1;
  request.submitted = micros(from.arrival_s);
  request.sampling.seed = index;
  request.max_tokens = std::min(from.max_tokens, slots_ - from.prompt_tokens);
  request.stop_tokens = {SimulatedEnds::kEndToken};
  request.prompt.resize(static_cast<size_t>(from.prompt_tokens));
  // Seeds of their own, so that no prompt continues an answer or equals another by accident.
  const uint64_t own = ~static_cast<uint64_t>(index);
  const uint64_t shared = (uint64_t{1} << 40) + static_cast<uint64_t>(from.prefix_group);
  const int32_t vocab = model_.model().vocab;
  for (int32_t i = 0; i < from.prompt_tokens; ++i) {
    request.prompt[static_cast<size_t>(i)] =
        simulated_token(i < from.prefix_tokens ? shared : own, i, vocab);
  }
  progress_[index].arrival = request.submitted;
  ++open_;
  ++tokenless_;
  router_.submit(std::move(request), now);
}

void Simulation::finish_step(size_t device, Micros now) {
  const StepResult result = devices_[device].executor->collect();
  const Status status = router_.apply(device + 1, 0, result, now);
  TROUPE_CHECK(status.ok()) << status.error().message;
  if (++steps_ % kStatsEvery != 0) return;
  const EngineStats stats = router_.stats();
  result_.kv_peak = std::max(result_.kv_peak, static_cast<double>(stats.slots_used) /
                                                  static_cast<double>(stats.slots_total));
}

void Simulation::plan(Micros now) {
  const Decision decision = router_.plan(now);
  for (const auto& [job, step] : decision.plans) {
    Device& device = devices_[job - 1];
    device.executor->enqueue(step);
    device.free_at = std::max(device.free_at, now) + device.executor->last_step_us();
    step_ends_.push({device.free_at, planned_++, job - 1});
  }
  for (const RequestUpdate& update : decision.updates) note(update, now);
}

void Simulation::tick(Micros now) {
  router_.tick(now);
  plan(now);
}

void Simulation::note(const RequestUpdate& update, Micros now) {
  Progress& p = progress_[update.id - 1];
  switch (update.kind) {
    case RequestUpdate::Kind::kAccepted: break;
    case RequestUpdate::Kind::kTokens:
      if (p.tokens == 0) {
        p.first = now;
        --tokenless_;
      }
      p.tokens += static_cast<int32_t>(update.tokens.size());
      p.last = now;
      break;
    case RequestUpdate::Kind::kFinished:
      --open_;
      if (p.tokens == 0) --tokenless_;
      if (update.reason != FinishReason::kError) {
        ++result_.finished;
      } else if (result_.failed++ == 0) {
        result_.first_error = update.error.message;
      }
      break;
  }
}

/// The next request of the workload has arrived and the router should know it.
bool Simulation::due(Micros now) const {
  return next_ < workload_.requests.size() && micros(workload_.requests[next_].arrival_s) <= now &&
         tokenless_ < int64_t{options_.dp} * options_.max_rows + kLookAhead;
}

void Simulation::report_progress(Micros now) {
  const auto clock = std::chrono::steady_clock::now();
  if (clock - reported_ < options_.progress_every) return;
  reported_ = clock;
  SimulationProgress progress;
  progress.ended = result_.finished + result_.failed;
  progress.requests = static_cast<int64_t>(workload_.requests.size());
  progress.output_tokens = static_cast<int64_t>(router_.stats().output_tokens);
  progress.seconds = static_cast<double>(now) * 1e-6;
  progress.wall_s = std::chrono::duration<double>(clock - begin_).count();
  options_.progress(progress);
}

Result<SimulationResult> Simulation::run() {
  start_devices();
  Micros now = 0;
  int idle_ticks = 0;
  const auto& requests = workload_.requests;
  while (next_ < requests.size() || open_ > 0) {
    if (due(now)) {
      while (due(now)) submit(next_++, now);
      plan(now);
      continue;
    }
    const bool held_back = next_ < requests.size() && micros(requests[next_].arrival_s) <= now;
    const Micros arrival = next_ < requests.size() && !held_back
                               ? micros(requests[next_].arrival_s)
                               : std::numeric_limits<Micros>::max();
    if (step_ends_.empty() && arrival == std::numeric_limits<Micros>::max()) {
      // Nothing is under way: what the serving shell's clock does may still help.
      if (++idle_ticks > kMaxIdleTicks) {
        return fail(ErrorCode::kInternal,
                    "the router stalled with " + std::to_string(open_) + " requests open");
      }
      tick(now += kTick);
      continue;
    }
    idle_ticks = 0;
    if (step_ends_.empty() || arrival <= step_ends_.top().at) {
      now = arrival;
      continue;
    }
    const StepEnd end = step_ends_.top();
    step_ends_.pop();
    now = end.at;
    finish_step(end.device, now);
    plan(now);
    if (options_.progress && steps_ % kProgressEvery == 0) report_progress(now);
  }
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - begin_;
  result_.wall_s = wall.count();
  return result();
}

SimulationResult Simulation::result() {
  std::vector<double> ttft;
  std::vector<double> tpot;
  Micros first = std::numeric_limits<Micros>::max();
  Micros last = 0;
  for (const Progress& p : progress_) {
    first = std::min(first, p.arrival);
    last = std::max(last, p.last);
    if (p.tokens == 0) continue;
    ttft.push_back(static_cast<double>(p.first - p.arrival) * 1e-3);
    if (p.tokens > 1) tpot.push_back(static_cast<double>(p.last - p.first) * 1e-3 / (p.tokens - 1));
  }
  const EngineStats stats = router_.stats();
  result_.tp = model_.tp();
  result_.dp = options_.dp;
  result_.ttft_ms = summarize(ttft);
  result_.tpot_ms = summarize(tpot);
  result_.pauses = stats.pauses;
  result_.steps = stats.steps;
  result_.output_tokens = static_cast<int64_t>(stats.output_tokens);
  result_.prompt_tokens = static_cast<int64_t>(stats.prompt_tokens);
  result_.cached_tokens = static_cast<int64_t>(stats.cached_prompt_tokens);
  result_.seconds = static_cast<double>(std::max<Micros>(last - first, 0)) * 1e-6;
  if (result_.seconds > 0) {
    result_.output_tokens_per_s = static_cast<double>(result_.output_tokens) / result_.seconds;
  }
  return result_;
}

}  // namespace

RouterLimits simulation_limits(const CostModel& model, const SimulationOptions& options) {
  RouterLimits limits;
  limits.max_context = model.model().max_context;
  limits.max_queue = std::numeric_limits<int32_t>::max();
  limits.max_step_tokens = options.max_step_tokens;
  return limits;
}

Result<SimulationResult> simulate(const CostModel& model, const Workload& workload,
                                  const SimulationOptions& options) {
  int32_t slots = options.kv_slots;
  if (slots == 0) {
    const auto fits = model.pool_slots();
    if (!fits) return fits.error();
    slots = *fits;
  }
  return Simulation(model, workload, options, slots).run();
}

}  // namespace troupe
