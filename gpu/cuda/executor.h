#pragma once

#include "gpu/executor.h"

namespace troupe::cuda {

/// Executor::create() for an NVIDIA GPU: the current device. kInvalidArgument and kOutOfMemory say
/// what the device is or lacks; DeviceError when it fails.
Result<std::unique_ptr<Executor>> make_executor(const Checkpoint& checkpoint,
                                                const ExecutorOptions& options,
                                                Communicator& communicator);

}  // namespace troupe::cuda
