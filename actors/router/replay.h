#pragma once

#include "actors/router/router.h"
#include "gpu/base/result.h"

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace troupe {

/// One decision made again, for printing. Borrowed during the call.
struct ReplayedDecision {
  uint64_t index = 0;  // among the decisions of the log, from 0
  Micros now = 0;
  const Decision* decision = nullptr;
  uint32_t digest = 0, recorded = 0;  // 0 = empty
  bool same = true;
};

struct ReplayReport {
  uint64_t events = 0;  // all records
  uint64_t decisions = 0;
  uint64_t differing = 0;
  uint64_t first_difference = 0;  // index, if any differ
  uint64_t requests = 0;
  uint64_t computed_tokens = 0;  // planned: one each for every row of a step or prompt token
  bool diverged = false;         // after a difference the recorded results fitted no more
  uint64_t diverged_at = 0;      // decisions made until then
};

/// Feeds a log to a new Router and compares what it decides with what was decided. With
/// `partial`, a log that was cut short is replayed up to there. `watch` sees every decision, may be
/// null. Once a decision differs, the results in the log may stop fitting the plans made here; the
/// replay ends there and says so.
Result<ReplayReport> replay(std::string_view log, const std::string& source, bool partial,
                            const std::function<void(const ReplayedDecision&)>& watch);

/// A decision in words, its digest included: a line that begins with "decision", then an indented
/// one for each plan and update.
[[nodiscard]] std::string describe(const ReplayedDecision& decision);

}  // namespace troupe
