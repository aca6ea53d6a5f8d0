#include "actors/step_log.h"

namespace troupe {

void StepLog::planned(uint64_t job, const StepPlan& plan) {
  std::deque<EngineSnapshot::Step>& steps = jobs_[job].steps;
  EngineSnapshot::Step step;
  step.step = plan.step;
  step.tokens = static_cast<int32_t>(plan.slots.size());
  step.rows = static_cast<int32_t>(plan.work.size());
  steps.push_back(step);
  if (steps.size() > kSteps) steps.pop_front();
}

void StepLog::done(uint64_t job, int32_t rank, const StepResult& result, Micros now) {
  const auto found = jobs_.find(job);
  if (found == jobs_.end()) return;  // lost, or nothing was planned since somebody watches
  Job& log = found->second;
  log.ranks[rank] = {result.step, now};
  if (rank != 0) return;
  // Plans in flight are few and last.
  for (auto step = log.steps.rbegin(); step != log.steps.rend(); ++step) {
    if (step->step > result.step) continue;
    if (step->step == result.step) {
      step->compute_us = static_cast<int32_t>(result.timings.compute_us);
      step->idle_us = static_cast<int32_t>(result.timings.idle_us);
    }
    return;
  }
}

void StepLog::describe(uint64_t job, int32_t n_ranks, Micros now,
                       EngineSnapshot::Replica& out) const {
  out.ranks.resize(static_cast<size_t>(n_ranks));
  const auto found = jobs_.find(job);
  if (found == jobs_.end()) return;
  out.steps.assign(found->second.steps.begin(), found->second.steps.end());
  for (const auto& [rank, answer] : found->second.ranks) {
    if (rank < 0 || rank >= n_ranks) continue;
    out.ranks[static_cast<size_t>(rank)] = {answer.step, now - answer.at};
  }
}

}  // namespace troupe
