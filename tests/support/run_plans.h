#pragma once

#include "gpu/executor.h"
#include "tests/support/run_ranks.h"

#include <gtest/gtest.h>

#include <vector>

namespace troupe::test {

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
