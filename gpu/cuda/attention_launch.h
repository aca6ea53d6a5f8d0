#pragma once

#include "gpu/cuda/device.h"

namespace troupe::cuda {

/// Launches a kernel with one struct parameter. With `overlap` its prologue may run beside the end
/// of the launch before it (programmatic dependent launch).
inline void launch(const void* function, dim3 grid, int32_t threads, size_t shared_bytes,
                   const void* params, bool overlap, cudaStream_t stream) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = overlap ? 1 : 0;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  void* arguments[] = {const_cast<void*>(params)};
  TROUPE_CUDA(cudaLaunchKernelExC(&config, function, arguments));
}

}  // namespace troupe::cuda
