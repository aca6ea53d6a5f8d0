#pragma once

#include "actors/router/router.h"
#include "actors/sim/workload.h"
#include "gpu/base/result.h"
#include "gpu/sim/cost_model.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

namespace troupe {

class Recorder;

/// How far a simulation has come.
struct SimulationProgress {
  int64_t ended = 0, requests = 0;
  int64_t output_tokens = 0;
  double seconds = 0;  // virtual
  double wall_s = 0;
};

struct SimulationOptions {
  int32_t dp = 1;  // replicas
  int32_t max_rows = 2048;
  int32_t max_step_tokens = 8192;
  Micros plan_ahead = 0;         // of RouterLimits; off, as on GPUs by default
  double decode_slowdown = 0;    // of RouterLimits
  Micros ttft_target = 0;        // of every request, 0 = none
  Micros tpot_target = 0;        // the same
  int32_t kv_slots = 0;          // of a replica; 0 = what the device's memory holds
  Recorder* recorder = nullptr;  // borrowed; null = nothing is recorded
  std::function<void(const SimulationProgress&)> progress;  // may be empty
  std::chrono::milliseconds progress_every{1000};           // of wall time
};

struct Summary {
  double mean = 0, p50 = 0, p99 = 0;
};

/// What a workload experienced. Virtual time, except wall_s.
struct SimulationResult {
  int32_t tp = 1, dp = 1;
  double output_tokens_per_s = 0;
  Summary ttft_ms;     // over requests
  Summary tpot_ms;     // over requests with two tokens or more: (last - first) / (tokens - 1)
  double kv_peak = 0;  // largest part of all slots in use, 0..1
  uint64_t pauses = 0;
  uint64_t steps = 0;
  int64_t output_tokens = 0;
  int64_t prompt_tokens = 0;  // of all requests, cached ones included
  int64_t cached_tokens = 0;
  int32_t finished = 0, failed = 0;
  int32_t met = 0;  // of the finished ones: that met both targets, each on average
  double goodput_per_s = 0;
  std::string first_error;  // why the first failed one failed
  double seconds = 0;       // from the first arrival to the last token
  double wall_s = 0;        // that the simulation took
};

/// The limits of the simulated router, for a Recorder.
[[nodiscard]] RouterLimits simulation_limits(const CostModel& model,
                                             const SimulationOptions& options);

/// Runs `workload` through a Router in virtual time against `dp` modelled replicas: a
/// discrete-event loop, one thread, deterministic. A step begins when its plan is there and the one
/// before it has ended; its result reaches the router when it ends. Of requests that arrive
/// together the router sees as many as could matter to it, the rest when those run. kOutOfMemory
/// when the model does not fit; kInternal when the router stalls.
Result<SimulationResult> simulate(const CostModel& model, const Workload& workload,
                                  const SimulationOptions& options);

}  // namespace troupe
