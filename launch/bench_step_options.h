#pragma once

#include "gpu/cuda/executor.h"

#include <cstdint>
#include <string>
#include <vector>

namespace troupe {

/// Inside of bench_step(): its options.
extern const char* const kBenchStepUsage;

struct BenchStepOptions {
  int32_t tp = 1;  // ranks that share the model, here or not
  std::string model = "llama-3-8b";
  std::vector<int32_t> rows;
  std::vector<int32_t> contexts = {1024};
  std::vector<int32_t> prefill;
  std::vector<int32_t> saturate;  // requests, in, out
  bool prefill_first = false;
  std::string replay;  // log, empty = none
  int32_t steps = 40;
  ExecutorOptions executor;
  cuda::Variant variant;
};

/// False when the command line is wrong.
[[nodiscard]] bool parse_bench_step(int argc, char** argv, BenchStepOptions& options);

}  // namespace troupe
