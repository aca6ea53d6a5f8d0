#pragma once

#include "gpu/executor.h"

namespace troupe {

/// Executor::create() for the CPU.
Result<std::unique_ptr<Executor>> make_cpu_executor(const Checkpoint& checkpoint,
                                                    const ExecutorOptions& options,
                                                    Communicator& communicator);

}  // namespace troupe
