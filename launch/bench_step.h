#pragma once

#include "gpu/communicator.h"

#include <cstdint>

namespace troupe {

/// `bench step`: step times of a replica's GPU ranks without actors or HTTP, on weights made on the
/// device from the shape of a model. All ranks of `communicator` call it, each with its GPU of this
/// host; the first prints JSON lines. `ms` is from one step's end to the next one's on the device's
/// clock, median; `floor_ms` is what the bytes that a rank must read, or its arithmetic, take at
/// the device's limits. Returns the exit code.
int bench_step(int argc, char** argv, Communicator& communicator, int32_t device_index);

}  // namespace troupe
