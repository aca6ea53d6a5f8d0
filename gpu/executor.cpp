#include "gpu/executor.h"

#include "gpu/cpu_executor.h"
#include "gpu/sim/sim_executor.h"

#ifdef TROUPE_WITH_CUDA
#include "gpu/base/check.h"
#include "gpu/cuda/capacity.h"
#include "gpu/cuda/executor.h"
#endif

namespace troupe {

#ifdef TROUPE_WITH_CUDA
int32_t gpu_count() { return cuda::usable_gpus(); }
std::string gpu_problem() {
  try {
    const auto device = cuda::use_device(0);
    return device.ok() ? "" : device.error().message;
  } catch (const DeviceError& error) {
    return error.what();
  }
}
#else
int32_t gpu_count() { return 0; }
std::string gpu_problem() {
  return "this program was built without CUDA; configure with the preset cuda, or use --device cpu";
}
#endif

Result<std::unique_ptr<Executor>> Executor::create(const Checkpoint& checkpoint,
                                                   const ExecutorOptions& options,
                                                   Communicator& communicator) {
  if (options.device == DeviceKind::kSim)
    return make_sim_executor(checkpoint, options, communicator);
  if (options.device == DeviceKind::kCpu)
    return make_cpu_executor(checkpoint, options, communicator);
#ifdef TROUPE_WITH_CUDA
  return cuda::make_executor(checkpoint, options, communicator);
#else
  return fail(ErrorCode::kInvalidArgument, gpu_problem(), "device");
#endif
}

}  // namespace troupe
