#pragma once

#include "gpu/cuda/weights_plan.h"
#include "gpu/model/checkpoint.h"

#include <cstddef>
#include <cstdint>

/// Inside of Weights: checkpoint -> device memory.
namespace troupe::cuda {

/// Fills `memory` (plan.bytes on the current device) from the checkpoint. Threads take blocks of
/// rows in file order, each through its own pinned buffers and stream, so that reading, copying and
/// converting overlap. Returns when all is there.
Status load_weights(const Checkpoint& checkpoint, const WeightsPlan& plan, std::byte* memory,
                    int32_t n_threads);

}  // namespace troupe::cuda
