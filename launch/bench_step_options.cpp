#include "launch/bench_step_options.h"

#include <algorithm>
#include <cstdlib>
#include <sstream>

namespace troupe {

const char* const kBenchStepUsage =
    "usage: [mpirun -n N] bench step [--model llama-3-8b|...|DIRECTORY] [--weights bf16|fp8]\n"
    "  [--kv bf16|fp8] [--rows 1,16,64] [--context 512,1024] [--prefill 512,2048]\n"
    "  [--saturate REQUESTS,IN,OUT] [--prefill-first (no decodes while a prompt can be computed)]\n"
    "  [--tp N (one rank's share, collectives left out)]\n"
    "  [--replay LOG (of `serve --record`, with the service's --max-rows and --kv-tokens)]\n"
    "  [--max-rows N] [--step-tokens N] [--max-context N] [--kv-tokens N] [--steps N]\n"
    "  [--tune-file F] [--eager] [--no-tune] [--retune (use no shipped table)]";

namespace {

std::vector<int32_t> numbers(const std::string& list) {
  std::vector<int32_t> out;
  std::istringstream in(list);
  for (std::string part; std::getline(in, part, ',');) out.push_back(std::atoi(part.c_str()));
  return out;
}

}  // namespace

bool parse_bench_step(int argc, char** argv, BenchStepOptions& o) {
  o.executor.device = DeviceKind::kCuda;
  o.executor.dummy_weights = true;
  o.executor.n_slots = 0;
  o.executor.max_rows = 256;
  o.executor.max_step_tokens = 2048;
  o.variant.random_pool = true;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--eager") {
      o.variant.graphs = false;
      continue;
    }
    if (arg == "--prefill-first") {
      o.prefill_first = true;
      continue;
    }
    if (arg == "--retune") {
      o.variant.shipped_tune = false;
      continue;
    }
    if (arg == "--no-tune") {
      o.variant.tune = false;
      continue;
    }
    if (i + 1 == argc) return false;
    const std::string value = argv[++i];
    const int32_t number = std::atoi(value.c_str());
    if (arg == "--model")
      o.model = value;
    else if (arg == "--weights")
      o.executor.fp8_weights = value == "fp8";
    else if (arg == "--kv")
      o.executor.fp8_kv = value == "fp8";
    else if (arg == "--rows")
      o.rows = numbers(value);
    else if (arg == "--context")
      o.contexts = numbers(value);
    else if (arg == "--prefill")
      o.prefill = numbers(value);
    else if (arg == "--saturate")
      o.saturate = numbers(value);
    else if (arg == "--replay")
      o.replay = value;
    else if (arg == "--tp")
      o.variant.share_of = number;
    else if (arg == "--max-rows")
      o.executor.max_rows = number;
    else if (arg == "--step-tokens")
      o.executor.max_step_tokens = number;
    else if (arg == "--max-context")
      o.executor.max_context = number;
    else if (arg == "--kv-tokens")
      o.executor.n_slots = number;
    else if (arg == "--steps")
      o.steps = std::max(number, 2);
    else if (arg == "--tune-file")
      o.executor.tune_file = value;
    else
      return false;
  }
  return o.saturate.empty() || o.saturate.size() == 3;
}

}  // namespace troupe
