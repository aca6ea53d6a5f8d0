#include "launch/simulate_options.h"

#include "launch/option_checks.h"

#include <CLI/CLI.hpp>

#include <charconv>

namespace troupe {

void add_simulate(CLI::App& app, SimulateCommand& simulate) {
  app.add_option("--model", simulate.model,
                 "Built-in name (llama-3-70b, qwen3-32b, ...), config.json or GGUF file")
      ->capture_default_str();
  app.add_option("--gpu", simulate.gpu, "Modelled device: h200, h200-measured, h100, a100 or cpu")
      ->capture_default_str();
  app.add_option("--coefficients", simulate.coefficients, "Coefficient file instead of --gpu");
  app.add_option("--count", simulate.count, "Devices")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  app.add_option("--tp", simulate.tp, "Tensor-parallel degrees to try, comma-separated")
      ->capture_default_str();
  app.add_option("--workload", simulate.workload,
                 "random:IN/OUT, random:IN-IN/OUT-OUT, sharegpt-like, reasoning-like or a file")
      ->capture_default_str();
  app.add_option("--requests", simulate.requests, "Requests, all at once; 0 = 1000")
      ->check(CLI::Range(int64_t{0}, int64_t{10'000'000}))
      ->capture_default_str();
  app.add_option("--rate", simulate.rate, "Poisson arrivals a second; 0 = all at once")
      ->check(CLI::Validator(finite, "", ""))
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--weights", simulate.weights, "Element type of the weights")
      ->check(CLI::IsMember({"fp8", "bf16"}))
      ->capture_default_str();
  app.add_option("--kv", simulate.kv, "Element type of the KV pool")
      ->check(CLI::IsMember({"fp8", "bf16"}))
      ->capture_default_str();
  app.add_option("--max-rows", simulate.max_rows, "Requests that run at a time on a replica")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--max-step-tokens", simulate.max_step_tokens, "Token budget of one step")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--max-tokens", simulate.max_tokens,
                 "What requests of unknown length ask for; 0 = 4096")
      ->check(CLI::Range(0, 1 << 26))
      ->capture_default_str();
  app.add_option(
         "--decode-slowdown", simulate.decode_slowdown,
         "Prompts may make steps with running streams so many times as long; 1000 = no limit")
      ->check(CLI::Range(1.01, kNoSlowdownLimit))
      ->capture_default_str();
  app.add_option("--ttft-target", simulate.ttft_target,
                 "ms to the first token that every request wants; prints goodput; 0 = none")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app.add_option("--tpot-target", simulate.tpot_target,
                 "ms for every further token; prints goodput; 0 = none")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app.add_option("--seed", simulate.seed, "Of the workload")->capture_default_str();
  app.add_flag("--json", simulate.json, "One JSON object per split instead of the table");
  app.add_option("--svg", simulate.svg, "Write a plot to this file");
  app.add_option("--record", simulate.record, "Write the router's log to this file (one --tp)");
  app.add_option("--fit", simulate.fit,
                 "Table of troupe bench step and bench ops --json: print coefficients fitted to "
                 "it, starting from "
                 "--gpu or --coefficients");
  app.add_option("--fit-terms", simulate.fit_terms, "Coefficients to fit, comma-separated");
}

void add_replay(CLI::App& app, ReplayCommand& replay) {
  app.add_option("LOG", replay.log, "Log of serve --record or simulate --record")->required();
  app.add_option("--from", replay.from, "First decision to print")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 60))
      ->capture_default_str();
  app.add_option("--count", replay.count, "Decisions to print")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 60))
      ->capture_default_str();
  app.add_flag("--partial", replay.partial, "Accept a log that was cut short");
  app.add_option("--against", replay.against,
                 "Another build's troupe: replays the log there too and shows the first decision "
                 "that the two take differently");
}

Result<std::vector<int32_t>> parse_tp_list(const std::string& text, int32_t count) {
  std::vector<int32_t> list;
  const char* at = text.data();
  const char* end = at + text.size();
  while (true) {
    int32_t tp = 0;
    const auto [next, error] = std::from_chars(at, end, tp);
    if (error != std::errc{} || tp < 1 || (next != end && *next != ',')) {
      return fail(ErrorCode::kInvalidArgument,
                  "--tp must be numbers from 1, separated by commas, as in --tp 1,2,4", "--tp");
    }
    if (count % tp != 0) {
      return fail(ErrorCode::kInvalidArgument,
                  std::to_string(count) + " devices cannot be split into groups of " +
                      std::to_string(tp) + "; choose a --tp that divides --count",
                  "--tp");
    }
    list.push_back(tp);
    if (next == end) return list;
    at = next + 1;
  }
}

}  // namespace troupe
