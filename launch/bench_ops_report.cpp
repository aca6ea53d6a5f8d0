#include "launch/bench_ops_report.h"

#include "launch/bench_device.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <sstream>

namespace troupe {

const char* const kOpsUsage =
    "usage: bench ops [--model llama-3-8b|...|DIRECTORY] [--weights bf16|fp8] [--kv bf16|fp8]\n"
    "  [--rows 1,16,64,256 (decoding)] [--context 1024,...] [--prefill 512,2048,...]\n"
    "  [--tp N (one rank's share)] [--only OP] [--tune-file F (made by bench step)] [--json]";

namespace {

std::vector<int32_t> numbers_of(const std::string& list) {
  std::vector<int32_t> out;
  std::istringstream in(list);
  for (std::string part; std::getline(in, part, ',');) {
    if (const int32_t n = std::atoi(part.c_str()); n > 0) out.push_back(n);
  }
  return out;
}

}  // namespace

bool parse_ops_options(int argc, char** argv, OpsOptions& o) {
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--json") {
      o.json = true;
      continue;
    }
    if (i + 1 == argc) return false;
    const std::string value = argv[++i];
    if (arg == "--model")
      o.model = value;
    else if (arg == "--weights")
      o.fp8 = value == "fp8";
    else if (arg == "--kv")
      o.fp8_kv = value == "fp8";
    else if (arg == "--rows")
      o.rows = numbers_of(value);
    else if (arg == "--context")
      o.contexts = numbers_of(value);
    else if (arg == "--prefill")
      o.prefill = numbers_of(value);
    else if (arg == "--tp")
      o.tp = std::max(1, std::atoi(value.c_str()));
    else if (arg == "--only")
      o.only = value;
    else if (arg == "--tune-file")
      o.tune_file = value;
    else
      return false;
  }
  return true;
}

void print_head(const OpsOptions& options, const std::string& model, const std::string& gpu) {
  if (!options.json) {
    std::printf(
        "%s, %s, weights %s, KV %s, a rank of %d\n\n%-17s %6s %7s %15s %9s %9s %5s %6s %8s\n",
        gpu.c_str(), model.c_str(), options.fp8 ? "fp8" : "bf16", options.fp8_kv ? "fp8" : "bf16",
        options.tp, "op", "tokens", "context", "rows x cols", "us", "floor us", "%", "TB/s",
        "TFLOP/s");
  }
}

void report(const OpsOptions& options, const std::string& model, const std::string& gpu,
            const OpCase& c, double us) {
  const double floor_us = DeviceLimits::of(gpu).floor(c.bytes, c.flops, c.fp8_arithmetic) * 1e6;
  if (options.json) {
    const nlohmann::ordered_json line = {{"bench", "op"},
                                         {"device", gpu},
                                         {"model", model},
                                         {"weights", options.fp8 ? "fp8" : "bf16"},
                                         {"kv", options.fp8_kv ? "fp8" : "bf16"},
                                         {"tp", options.tp},
                                         {"op", c.op},
                                         {"tokens", c.tokens},
                                         {"context", c.context},
                                         {"rows", c.rows},
                                         {"cols", c.cols},
                                         {"us", us},
                                         {"bytes", c.bytes},
                                         {"flops", c.flops},
                                         {"floor_us", floor_us},
                                         {"percent_of_floor", floor_us / us * 100}};
    std::printf("%s\n", line.dump().c_str());
  } else {
    const std::string matrix =
        c.rows > 0 ? std::to_string(c.rows) + " x " + std::to_string(c.cols) : "";
    std::printf("%-17s %6d %7d %15s %9.2f %9.2f %5.1f %6.2f %8.1f\n", c.op, c.tokens, c.context,
                matrix.c_str(), us, floor_us, floor_us / us * 100, c.bytes / us * 1e-6,
                c.flops / us * 1e-6);
  }
  std::fflush(stdout);
}

}  // namespace troupe
