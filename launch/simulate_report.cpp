#include "launch/simulate_report.h"

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdio>

namespace troupe {
namespace {

using nlohmann::ordered_json;

/// Rounded to `digits` after the point, as a number that prints short.
double rounded(double value, int digits) {
  const double scale = std::pow(10.0, digits);
  return std::round(value * scale) / scale;
}

ordered_json to_json(const Summary& s) {
  return {{"mean", rounded(s.mean, 3)}, {"p50", rounded(s.p50, 3)}, {"p99", rounded(s.p99, 3)}};
}

}  // namespace

std::string to_json(const Split& split) {
  ordered_json out;
  out["tp"] = split.tp;
  out["dp"] = split.dp;
  if (!split.problem.empty()) {
    out["error"] = split.problem;
    return out.dump();
  }
  const SimulationResult& r = split.result;
  out["output_tokens_per_s"] = rounded(r.output_tokens_per_s, 1);
  out["ttft_ms"] = to_json(r.ttft_ms);
  out["tpot_ms"] = to_json(r.tpot_ms);
  out["kv_peak"] = rounded(r.kv_peak, 4);
  out["pauses"] = r.pauses;
  out["requests"] = r.finished;
  out["failed"] = r.failed;
  if (split.has_targets) {
    out["met_targets"] = r.met;
    out["goodput_per_s"] = rounded(r.goodput_per_s, 3);
  }
  out["output_tokens"] = r.output_tokens;
  out["cached_tokens"] = r.cached_tokens;
  out["steps"] = r.steps;
  out["seconds"] = rounded(r.seconds, 3);
  out["wall_s"] = rounded(r.wall_s, 3);
  return out.dump();
}

std::string to_table(const std::vector<Split>& splits) {
  std::string out =
      "  TP  DP |  output    |      TTFT, ms               |   TPOT, ms           | KV   |\n"
      "         |  tokens/s  |    mean      p50      p99   |  mean   p50    p99   | peak | "
      "pauses\n";
  char line[512];
  for (const Split& split : splits) {
    if (!split.problem.empty()) {
      out += " " + std::to_string(split.tp) + " x " + std::to_string(split.dp) + ": " +
             split.problem + "\n";
      continue;
    }
    const SimulationResult& r = split.result;
    std::snprintf(line, sizeof(line),
                  "%4d%4d | %10.0f | %8.0f %8.0f %9.0f | %6.1f %6.1f %6.1f | %3.0f%% | %6llu\n",
                  split.tp, split.dp, r.output_tokens_per_s, r.ttft_ms.mean, r.ttft_ms.p50,
                  r.ttft_ms.p99, r.tpot_ms.mean, r.tpot_ms.p50, r.tpot_ms.p99, 100 * r.kv_peak,
                  static_cast<unsigned long long>(r.pauses));
    out += line;
    if (split.has_targets) {
      std::snprintf(line, sizeof(line),
                    "         goodput %.2f requests a second: %d of %d met both targets\n",
                    r.goodput_per_s, r.met, r.finished + r.failed);
      out += line;
    }
    if (r.failed > 0) {
      out += "         " + std::to_string(r.failed) + " requests failed: " + r.first_error + "\n";
    }
  }
  double wall = 0;
  double tokens = 0;
  for (const Split& split : splits) {
    wall += split.result.wall_s;
    tokens += static_cast<double>(split.result.output_tokens);
  }
  std::snprintf(line, sizeof(line),
                "simulated %.0f output tokens in %.2f s: %.2f million a second\n", tokens, wall,
                wall > 0 ? tokens / wall * 1e-6 : 0);
  return out + line;
}

}  // namespace troupe
