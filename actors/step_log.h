#pragma once

#include "actors/engine_snapshot.h"
#include "actors/router/request.h"
#include "gpu/step.h"

#include <cstdint>
#include <deque>
#include <map>
#include <vector>

namespace troupe {

/// The newest steps and the ranks' last answers, for the dashboard. Kept by the router actor while
/// somebody watches; one thread.
class StepLog {
 public:
  static constexpr size_t kSteps = 256;  // of a replica

  void planned(uint64_t job, const StepPlan& plan);
  void done(uint64_t job, int32_t rank, const StepResult& result, Micros now);
  void forget(uint64_t job) { jobs_.erase(job); }
  void clear() { jobs_.clear(); }
  /// Fills in what it knows of a job's replica with `n_ranks` ranks.
  void describe(uint64_t job, int32_t n_ranks, Micros now, EngineSnapshot::Replica& out) const;

 private:
  struct Answer {
    uint64_t step = 0;
    Micros at = 0;
  };
  struct Job {
    std::deque<EngineSnapshot::Step> steps;
    std::map<int32_t, Answer> ranks;
  };
  std::map<uint64_t, Job> jobs_;
};

}  // namespace troupe
