#pragma once

#include "gpu/base/result.h"
#include "gpu/model/checkpoint.h"
#include "gpu/ops/linear.h"
#include "gpu/step.h"

#include <cstdint>
#include <memory>

namespace troupe {

class Communicator;

struct ExecutorOptions {
  WeightMode weights = WeightMode::kFast;
  DType kv = DType::kF16;         // kF16 or kF32
  int32_t n_threads = 1;          // of this rank
  int32_t n_slots = 8192;         // KV pool, tokens
  int32_t max_rows = 64;          // running sequences
  int32_t max_step_tokens = 512;  // prefill chunk + decodes of one step
};

/// What one rank computes: weights, KV pool, sampler and rows. Built and used by one thread, the
/// rank worker. All ranks of a replica construct it together and run the same plans in order.
class Executor {
 public:
  /// Loads this rank's share of the weights. kOutOfMemory with exact numbers when it cannot fit.
  static Result<std::unique_ptr<Executor>> create(const Checkpoint& checkpoint,
                                                  const ExecutorOptions& options,
                                                  Communicator& communicator);
  ~Executor();

  /// Applies the delta, runs the model, samples. Collective. Throws DeviceError; aborts on a plan
  /// that breaks the protocol (unknown row, slot out of range).
  StepResult run(const StepPlan& plan);

  /// Closes every row without a plan (a new epoch begins).
  void reset();

  struct Memory {
    int64_t weights = 0;  // bytes
    int64_t kv = 0;
    int64_t workspace = 0;
  };
  [[nodiscard]] Memory memory() const;

 private:
  Executor();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace troupe
