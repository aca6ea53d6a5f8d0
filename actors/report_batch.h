#pragma once

#include "gpu/step.h"

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace troupe {

/// Results that a rank has not reported yet. A message costs more than what is in it, so results
/// wait for each other as long as nobody misses them: those of rank 0 until the router must plan
/// the next step, the other ranks' digests longer, because they need not be compared at once.
/// Nothing is held by a rank that has nothing to do. One thread.
class ReportBatch {
 public:
  static constexpr size_t kTogether = 8;  // digests; far below what the router lets a rank lag

  explicit ReportBatch(int32_t rank) : rank_(rank) {}

  /// Adds the result of a step after which `ahead` plans are left to run. Returns what is to be
  /// reported now, oldest first; empty = nothing.
  [[nodiscard]] std::vector<StepResult> add(StepResult&& result, size_t ahead) {
    if (rank_ != 0) result.sampled.clear();  // the digest says that they are the same
    held_.push_back(std::move(result));
    const bool wait = rank_ == 0 ? ahead >= kStepsInFlight : ahead > 0 && held_.size() < kTogether;
    return wait ? std::vector<StepResult>() : std::exchange(held_, {});
  }

 private:
  int32_t rank_;
  std::vector<StepResult> held_;
};

}  // namespace troupe
