#pragma once

#include "gpu/executor.h"
#include "gpu/sim/cost_model.h"
#include "gpu/step.h"

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

namespace troupe {

/// The token of a simulated row at `position` (0 = first of the prompt): a hash of the request's
/// key and the position, so it is the same whatever pauses, neighbours or ranks there were. The key
/// is the request's seed or, for greedy requests, a hash of the prompt.
[[nodiscard]] int32_t simulated_token(uint64_t key, int32_t position, int32_t vocab);

/// How long simulated requests are when the workload knows and the router must not: the request
/// whose seed is s gets kEndToken at position at[s].
struct SimulatedEnds {
  static constexpr int32_t kEndToken = 0;
  std::vector<int32_t> at;
};

struct SimExecutorOptions {
  int32_t n_slots = 0;
  int32_t max_rows = 0;
  int32_t vocab = 0;                    // tokens are below it
  bool real_time = false;               // else steps return at once and only name their duration
  const SimulatedEnds* ends = nullptr;  // borrowed; null = no request ends by itself
};

/// A rank that computes nothing: its steps take the modelled time and its tokens are a hash.
/// Checks plans as a real one does: unknown rows and foreign slots abort. One thread.
class SimExecutor final : public Executor {
 public:
  SimExecutor(CostModel model, const SimExecutorOptions& options);

  void enqueue(const StepPlan& plan) override;
  /// In real time it may sleep for a moment, so that a polling worker leaves the core to others.
  [[nodiscard]] bool ready() const override;
  StepResult collect() override;
  void reset() override;
  [[nodiscard]] int32_t n_slots() const override { return options_.n_slots; }
  [[nodiscard]] Memory memory() const override;

  /// Modelled duration of the newest step.
  [[nodiscard]] uint32_t last_step_us() const { return last_step_us_; }
  /// Tokens that open rows hold in the pool, shared ones once for each row.
  [[nodiscard]] int64_t context_tokens() const { return context_tokens_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Row {
    bool open = false;
    bool greedy = false;
    int32_t context = 0;  // tokens in the pool
    int32_t n_prompt = 0;
    int32_t n_logprobs = -1;
    uint64_t seed = 0;
    uint64_t prompt = 0;  // greedy: hash of the prompt's tokens so far
  };
  struct Pending {
    StepResult result;
    Clock::time_point end;
  };
  [[nodiscard]] SampledToken sample(int32_t number, const Row& row) const;
  Row& row_at(int32_t row);

  CostModel model_;
  SimExecutorOptions options_;
  std::vector<Row> rows_;
  std::deque<Pending> pending_;
  std::optional<Clock::time_point> free_at_;  // end of the newest step, none before the first
  int64_t context_tokens_ = 0;
  uint32_t last_step_us_ = 0;
};

/// The executor of a rank of `--device sim:NAME`: real-time pace, tokens within the checkpoint's
/// vocabulary, the pool as large as the modelled device allows unless options name a size.
Result<std::unique_ptr<Executor>> make_sim_executor(const Checkpoint& checkpoint,
                                                    const ExecutorOptions& options,
                                                    const Communicator& communicator);

}  // namespace troupe
