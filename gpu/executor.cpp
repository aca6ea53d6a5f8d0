#include "gpu/executor.h"

#include "gpu/cpu_executor.h"

#ifdef TROUPE_WITH_CUDA
#include "gpu/cuda/executor.h"

#include <cuda_runtime.h>
#endif

namespace troupe {

int32_t gpu_count() {
#ifdef TROUPE_WITH_CUDA
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
#endif
  return 0;
}

Result<std::unique_ptr<Executor>> Executor::create(const Checkpoint& checkpoint,
                                                   const ExecutorOptions& options,
                                                   Communicator& communicator) {
  if (options.device == DeviceKind::kCpu)
    return make_cpu_executor(checkpoint, options, communicator);
#ifdef TROUPE_WITH_CUDA
  return cuda::make_executor(checkpoint, options, communicator);
#else
  return fail(ErrorCode::kInvalidArgument,
              "this program was built without CUDA; configure with the preset cuda, or use "
              "--device cpu",
              "device");
#endif
}

}  // namespace troupe
