#pragma once

#include "gpu/executor.h"
#include "tests/support/run_ranks.h"

#include <gtest/gtest.h>

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

/// Runs the plans on `n_ranks` executors and returns the first rank's results. All ranks must agree
/// on digests and tokens.
inline std::vector<StepResult> run_plans(const Checkpoint& checkpoint,
                                         const ExecutorOptions& options, int32_t n_ranks,
                                         const std::vector<StepPlan>& plans) {
  std::vector<std::vector<StepResult>> results(static_cast<size_t>(n_ranks));
  run_ranks(n_ranks, [&](Communicator& communicator) {
    auto executor = Executor::create(checkpoint, options, communicator);
    ASSERT_TRUE(executor.ok()) << executor.error().message;
    auto& mine = results[static_cast<size_t>(communicator.rank())];
    for (const StepPlan& plan : plans) mine.push_back((*executor)->run(plan));
  });
  for (const auto& other : results) {
    EXPECT_EQ(other.size(), plans.size());
    for (size_t i = 0; i < other.size(); ++i)
      EXPECT_EQ(other[i].digest, results[0][i].digest) << "step " << i;
  }
  return results[0];
}

/// Everything sampled for one row, in order.
inline std::vector<SampledToken> sampled_of(const std::vector<StepResult>& results, int32_t row) {
  std::vector<SampledToken> out;
  for (const StepResult& result : results)
    for (const SampledToken& token : result.sampled)
      if (token.row == row) out.push_back(token);
  return out;
}

inline std::vector<int32_t> tokens_of(const std::vector<SampledToken>& sampled) {
  std::vector<int32_t> out;
  for (const SampledToken& s : sampled) out.push_back(s.token);
  return out;
}

}  // namespace troupe::test
