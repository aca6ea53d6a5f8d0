#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace troupe {

/// What became of one request. Times in seconds since the start of the load.
struct RequestRecord {
  double start = 0;            // in an open loop when it was due, so that a late client shows
  double end = 0;              // of the answer
  std::vector<double> pieces;  // arrival of each piece of text
  int32_t input_tokens = 0;
  int32_t output_tokens = 0;
  std::string error;  // empty = answered
};

struct Spread {
  int64_t n = 0;
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p99 = 0;
};

/// The figures of a load. Times in milliseconds, of answered requests only.
struct LoadReport {
  int64_t requests = 0;
  int64_t failed = 0;
  std::map<std::string, int64_t> errors;  // text -> how often
  double seconds = 0;                     // first start to last end
  int64_t input_tokens = 0;
  int64_t output_tokens = 0;
  double requests_per_s = 0;
  double output_tokens_per_s = 0;
  double total_tokens_per_s = 0;  // prompts and answers
  Spread ttft;                    // time to first token
  Spread tpot;                    // time per output token after the first, of one request
  Spread itl;                     // between two pieces of text of one request
  Spread e2e;
  int64_t good = 0;    // requests within both bounds
  double goodput = 0;  // those, per second
};

/// Linear interpolation between closest ranks, 0 <= q <= 1; 0 of nothing. O(n log n).
[[nodiscard]] Spread spread(std::vector<double> values);

/// `slo_ttft`, `slo_tpot`: milliseconds, 0 = no bound. An answer of one token meets any TPOT.
[[nodiscard]] LoadReport summarise(const std::vector<RequestRecord>& records, double slo_ttft,
                                   double slo_tpot);

}  // namespace troupe
