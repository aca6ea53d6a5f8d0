#pragma once

#include "gpu/base/result.h"
#include "gpu/step.h"

#include <string>
#include <vector>

namespace troupe {

/// What a service did from one idle moment to the next, as its router's log tells it.
struct RecordedLoad {
  std::vector<StepPlan> plans;  // in order; rows opened by an earlier load may be closed here
  double seconds = 0;           // from the first plan to the last token's arrival at the router
};

/// The loads of a log (`serve --record FILE`) of a service with one replica. The plans are decided
/// again from the log, so they are those that were served.
Result<std::vector<RecordedLoad>> read_recorded_loads(const std::string& file);

}  // namespace troupe
