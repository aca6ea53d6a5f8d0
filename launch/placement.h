#pragma once

#include "gpu/base/result.h"
#include "launch/options.h"

#include <cstdint>
#include <string>

namespace troupe {

/// The command with everything that was left automatic decided for a host with `gpus` GPUs. Refuses
/// what does not go together: GPU formats on the CPU, more ranks than GPUs, a step too small for
/// its rows. `gpu_problem` says why there is none where one was asked for. Pure.
[[nodiscard]] Result<ServeCommand> place(const ServeCommand& command, int32_t gpus,
                                         const std::string& gpu_problem = "");

}  // namespace troupe
