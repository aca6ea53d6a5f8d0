#pragma once

#include "gpu/base/result.h"
#include "launch/options.h"

#include <cstdint>

namespace troupe {

/// The command with everything that was left automatic decided for a host with `gpus` GPUs. Refuses
/// what does not go together: GPU formats on the CPU, more ranks than GPUs, a step too small for
/// its rows. Pure.
[[nodiscard]] Result<ServeCommand> place(const ServeCommand& command, int32_t gpus);

}  // namespace troupe
