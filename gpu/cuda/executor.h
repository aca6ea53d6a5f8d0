#pragma once

#include "gpu/executor.h"

namespace troupe::cuda {

/// Executor::create() for an NVIDIA GPU: options.device_index of this host, which becomes the
/// calling thread's device. kInvalidArgument and kOutOfMemory say
/// what the device is or lacks; DeviceError when it fails.
Result<std::unique_ptr<Executor>> make_executor(const Checkpoint& checkpoint,
                                                const ExecutorOptions& options,
                                                Communicator& communicator);

/// For tests and measurements only.
struct Variant {
  bool graphs = true;            // false: decode steps are launched kernel by kernel
  bool batch_invariant = false;  // a row's tokens do not depend on its neighbours, bit for bit
  bool tune = true;              // time the matrix multiplies at start
  bool shipped_tune = true;      // what the program was built with need not be timed
  bool random_pool = false;      // fill the KV pool with random numbers
  int32_t share_of = 1;          // be rank 0 of so many, with the collectives left out
};
Result<std::unique_ptr<Executor>> make_executor(const Checkpoint& checkpoint,
                                                const ExecutorOptions& options,
                                                Communicator& communicator, const Variant& variant);

}  // namespace troupe::cuda
