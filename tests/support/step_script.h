#pragma once

#include "gpu/step.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <span>
#include <vector>

namespace troupe::test {

/// Writes step plans by hand the way a router would: hands out slots (in a shuffled order when
/// seeded) and keeps no state of the rows beyond their slots.
class StepScript {
 public:
  explicit StepScript(int32_t n_slots, uint32_t shuffle_seed = 0) {
    for (int32_t s = n_slots - 1; s >= 0; --s) free_.push_back(s);
    if (shuffle_seed != 0) std::shuffle(free_.begin(), free_.end(), std::mt19937(shuffle_seed));
  }

  StepPlan& begin_step() {
    plans_.push_back({});
    plans_.back().epoch = 1;
    plans_.back().step = plans_.size();
    return plans_.back();
  }

  void open(int32_t row, int32_t n_prompt, const SamplingParams& sampling = {}) {
    plans_.back().opened.push_back({row, n_prompt, sampling, {}, {}});
  }

  void close(int32_t row) {
    plans_.back().closed.push_back(row);
    free_.insert(free_.end(), slots_[row].begin(), slots_[row].end());
    slots_.erase(row);
  }

  void feed(int32_t row, std::span<const int32_t> tokens, bool sample) {
    StepPlan& plan = plans_.back();
    const auto n = static_cast<int32_t>(tokens.size());
    plan.work.push_back({row, n, false, sample});
    plan.tokens.insert(plan.tokens.end(), tokens.begin(), tokens.end());
    take_slots(row, n);
  }

  void decode(int32_t row) {
    plans_.back().work.push_back({row, 1, true, true});
    take_slots(row, 1);
  }

  [[nodiscard]] const std::vector<StepPlan>& plans() const { return plans_; }
  [[nodiscard]] const std::vector<int32_t>& slots_of(int32_t row) { return slots_[row]; }

 private:
  void take_slots(int32_t row, int32_t n) {
    for (int32_t i = 0; i < n; ++i) {
      slots_[row].push_back(free_.back());
      plans_.back().slots.push_back(free_.back());
      free_.pop_back();
    }
  }

  std::vector<int32_t> free_;
  std::map<int32_t, std::vector<int32_t>> slots_;
  std::vector<StepPlan> plans_;
};

}  // namespace troupe::test
