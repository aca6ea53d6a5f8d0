#include "launch/bench_client.h"
#include "launch/bench_statistics.h"
#include "launch/bench_workload.h"
#include "launch/commands.h"

#include <curl/curl.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <fstream>

namespace troupe {
namespace {

using nlohmann::json;

json to_json(const Spread& s) {
  return {{"n", s.n}, {"mean", s.mean}, {"p50", s.p50}, {"p90", s.p90}, {"p99", s.p99}};
}

json to_json(const BenchServeCommand& bench, const std::string& model, const LoadReport& report) {
  json load = {{"endpoint", bench.endpoint},
               {"prompt", bench.endpoint == "chat" ? "words" : bench.prompt},
               {"input_tokens", {bench.input.low, bench.input.high}},
               {"output_tokens", {bench.output.low, bench.output.high}},
               {"seed", bench.seed}};
  if (bench.rate > 0) {
    load["rate"] = bench.rate;
  } else {
    load["concurrency"] = bench.concurrency;
  }
  if (bench.slo_ttft > 0) load["slo_ttft_ms"] = bench.slo_ttft;
  if (bench.slo_tpot > 0) load["slo_tpot_ms"] = bench.slo_tpot;
  json out = {{"bench", "serve"},
              {"url", bench.url},
              {"model", model},
              {"load", load},
              {"requests", report.requests},
              {"failed", report.failed},
              {"errors", report.errors},
              {"seconds", report.seconds},
              {"input_tokens", report.input_tokens},
              {"output_tokens", report.output_tokens},
              {"requests_per_s", report.requests_per_s},
              {"output_tokens_per_s", report.output_tokens_per_s},
              {"total_tokens_per_s", report.total_tokens_per_s},
              {"ttft_ms", to_json(report.ttft)},
              {"tpot_ms", to_json(report.tpot)},
              {"itl_ms", to_json(report.itl)},
              {"e2e_ms", to_json(report.e2e)}};
  if (bench.slo_ttft > 0 || bench.slo_tpot > 0) {
    out["good"] = report.good;
    out["goodput_per_s"] = report.goodput;
  }
  return out;
}

void print_spread(std::FILE* out, const char* name, const Spread& s) {
  std::fprintf(out, "%-22s %10.2f %10.2f %10.2f %10.2f\n", name, s.mean, s.p50, s.p90, s.p99);
}

void print_table(std::FILE* out, const BenchServeCommand& bench, const LoadReport& report) {
  std::fprintf(out, "%-22s %10lld   (%lld failed) in %.2f s\n", "requests",
               static_cast<long long>(report.requests), static_cast<long long>(report.failed),
               report.seconds);
  std::fprintf(out, "%-22s %10.2f\n", "requests/s", report.requests_per_s);
  std::fprintf(out, "%-22s %10.1f\n", "output tokens/s", report.output_tokens_per_s);
  std::fprintf(out, "%-22s %10.1f\n", "total tokens/s", report.total_tokens_per_s);
  if (bench.slo_ttft > 0 || bench.slo_tpot > 0) {
    std::fprintf(out, "%-22s %10.2f   (%lld requests within the bounds)\n", "goodput, requests/s",
                 report.goodput, static_cast<long long>(report.good));
  }
  std::fprintf(out, "\n%-22s %10s %10s %10s %10s\n", "milliseconds", "mean", "p50", "p90", "p99");
  print_spread(out, "first token (TTFT)", report.ttft);
  print_spread(out, "per token (TPOT)", report.tpot);
  print_spread(out, "between tokens (ITL)", report.itl);
  print_spread(out, "whole request", report.e2e);
  for (const auto& [text, n] : report.errors) {
    std::fprintf(out, "%lld x %s\n", static_cast<long long>(n), text.c_str());
  }
}

/// The first failure, if any. Warm-up requests come from another seed: their prompts must not be
/// found in a prefix cache later.
std::string warm_up(const BenchServeCommand& bench, const std::string& model) {
  BenchServeCommand one = bench;
  one.concurrency = 1;
  one.rate = 0;
  for (const RequestRecord& r :
       run_load(one, model, plan_load(one, bench.warmup, bench.seed ^ 0x5eedULL << 32))) {
    if (!r.error.empty()) return r.error;
  }
  return {};
}

}  // namespace

int bench_serve(const BenchServeCommand& bench) {
  curl_global_init(CURL_GLOBAL_DEFAULT);
  std::string model = bench.model;
  if (model.empty()) {
    auto found = first_model(bench);
    if (!found) {
      std::fprintf(stderr, "error: %s\n", found.error().message.c_str());
      return kExitFailed;
    }
    model = std::move(found).value();
  }
  if (const std::string error = warm_up(bench, model); !error.empty()) {
    std::fprintf(stderr, "error: the warm-up request failed: %s\n", error.c_str());
    return kExitFailed;
  }
  const LoadReport report =
      summarise(run_load(bench, model, plan_load(bench, bench.requests, bench.seed)),
                bench.slo_ttft, bench.slo_tpot);
  print_table(bench.json == "-" ? stderr : stdout, bench, report);
  if (!bench.json.empty()) {
    const std::string line =
        to_json(bench, model, report).dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
    if (bench.json == "-") {
      std::fputs(line.c_str(), stdout);
    } else if (std::ofstream file(bench.json); !(file << line)) {
      std::fprintf(stderr, "error: cannot write %s; choose another file for --json\n",
                   bench.json.c_str());
      return kExitFailed;
    }
  }
  return report.failed == 0 ? kExitOk : kExitFailed;
}

}  // namespace troupe
