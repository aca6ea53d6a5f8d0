#pragma once

#include "gpu/base/result.h"
#include "gpu/model/checkpoint.h"
#include "gpu/ops/linear.h"
#include "gpu/step.h"

#include <cstdint>
#include <memory>
#include <string>

namespace troupe {

class Communicator;

/// GPUs that this program can use; 0 without CUDA, driver or device. The first call may take a
/// second.
[[nodiscard]] int32_t gpu_count();
/// Why this program cannot use the current GPU, and what to do; empty when it can.
[[nodiscard]] std::string gpu_problem();

enum class DeviceKind : uint8_t { kCpu, kCuda, kSim };

struct ExecutorOptions {
  DeviceKind device = DeviceKind::kCpu;
  int32_t device_index = 0;                // CUDA: which GPU of this host
  WeightMode weights = WeightMode::kFast;  // CPU
  DType kv = DType::kF16;                  // CPU: kF16 or kF32
  int32_t n_threads = 1;                   // CPU: of this rank
  int32_t n_slots = 8192;                  // KV pool, tokens; CUDA: 0 = what fits
  int32_t max_rows = 64;                   // running sequences
  int32_t max_step_tokens = 512;           // prefill chunk + decodes of one step
  int32_t max_context = 0;                 // CUDA: longest sequence, 0 = the model's
  bool stored_weights = false;             // CUDA: as the checkpoint has them, e4m3 or else bf16
  bool fp8_weights = false;                // CUDA, when not as stored: e4m3, else bf16
  bool fp8_kv = false;                     // CUDA: e4m3, else bf16
  bool dummy_weights = false;              // CUDA: random weights made on the device
  std::string tune_file;                   // CUDA: autotune table, empty = none
  std::string sim_device;                  // modelled: name of its coefficients
  std::string sim_model;                   // modelled: shape, empty = the checkpoint's
};

/// What one rank computes: weights, KV pool, sampler and rows. Built and used by one thread, the
/// rank worker. All ranks of a replica construct it together and run the same plans in order.
class Executor {
 public:
  /// Loads this rank's share of the weights. kOutOfMemory with exact numbers when it cannot fit.
  static Result<std::unique_ptr<Executor>> create(const Checkpoint& checkpoint,
                                                  const ExecutorOptions& options,
                                                  Communicator& communicator);
  virtual ~Executor() = default;

  /// Takes the next step: applies the delta, runs the model, samples. May return before the work is
  /// done, so that a device never waits for the next plan; at most kMaxEnqueued steps may be
  /// uncollected. Collective. Throws DeviceError; aborts on a plan that breaks the protocol
  /// (unknown row, slot out of range).
  virtual void enqueue(const StepPlan& plan) = 0;
  /// The oldest enqueued step has ended: collect() will not block.
  [[nodiscard]] virtual bool ready() const = 0;
  /// Waits for the oldest enqueued step. Throws DeviceError.
  virtual StepResult collect() = 0;
  static constexpr int32_t kMaxEnqueued = kStepsInFlight;

  StepResult run(const StepPlan& plan) {
    enqueue(plan);
    return collect();
  }

  /// Closes every row without a plan (a new epoch begins). Nothing may be enqueued.
  virtual void reset() = 0;

  /// The KV pool's size: what the options ask for, or what fitted when they left it open.
  [[nodiscard]] virtual int32_t n_slots() const = 0;

  struct Memory {
    int64_t weights = 0;  // bytes
    int64_t kv = 0;
    int64_t workspace = 0;
  };
  [[nodiscard]] virtual Memory memory() const = 0;
};

}  // namespace troupe
