#pragma once

#include "actors/sim/simulation.h"

#include <string>
#include <vector>

namespace troupe {

/// One TP x DP split: what was predicted, or why nothing could be.
struct Split {
  int32_t tp = 1, dp = 1;
  SimulationResult result;
  bool has_targets = false;  // then the goodput counts
  std::string problem;       // empty = there is a result
};

/// A table for people, with a heading. Ends with a newline.
[[nodiscard]] std::string to_table(const std::vector<Split>& splits);

/// {"tp","dp","output_tokens_per_s","ttft_ms":{"mean","p50","p99"},"tpot_ms":{...},"kv_peak",
/// "pauses"}, or {"tp","dp","error"}; without a newline.
[[nodiscard]] std::string to_json(const Split& split);

/// Throughput, TTFT and TPOT by split as a picture. `title` is shown above.
[[nodiscard]] std::string to_svg(const std::vector<Split>& splits, const std::string& title);

}  // namespace troupe
