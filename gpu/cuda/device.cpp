#include "gpu/cuda/device.h"

#include "gpu/base/check.h"

namespace troupe::cuda {

void check(cudaError_t code, const char* call, const char* file, int line) {
  if (code == cudaSuccess) return;
  throw DeviceError(std::string(call) + " failed: " + cudaGetErrorString(code) + " (" + file + ":" +
                    std::to_string(line) + ")");
}

}  // namespace troupe::cuda
