#pragma once

#include "gpu/base/result.h"
#include "gpu/communicator.h"
#include "launch/recorded_plans.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace troupe {

/// `bench step`: step times of a replica's GPU ranks without actors or HTTP, on weights made on the
/// device from the shape of a model. All ranks of `communicator` call it, each with its GPU of this
/// host; the first prints JSON lines. `ms` is from one step's end to the next one's on the device's
/// clock, median; `floor_ms` is what the bytes that a rank must read, or its arithmetic, take at
/// the device's limits. Returns the exit code. `read` serves --replay: the plans of a recorded
/// service on the bare executor; a program without the router passes none.
using ReadLoads = std::function<Result<std::vector<RecordedLoad>>(const std::string& file)>;
int bench_step(int argc, char** argv, Communicator& communicator, int32_t device_index,
               const ReadLoads& read = nullptr);

}  // namespace troupe
