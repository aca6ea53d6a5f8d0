#include "gpu/cuda/tensor_maps.h"

#include "gpu/base/check.h"
#include "gpu/cuda/device.h"

#include <string>

namespace troupe::cuda {

TensorMaps::TensorMaps() {
  int device = 0;
  int major = 0;
  TROUPE_CUDA(cudaGetDevice(&device));
  TROUPE_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  if (major != 9) return;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = {};
  const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                              12000, cudaEnableDefault, &found);
  if (status == cudaSuccess && found == cudaDriverEntryPointSuccess)
    encode_ = reinterpret_cast<Encode>(function);
}

const CUtensorMap& TensorMaps::of(const void* data, int64_t rows, int64_t row_bytes,
                                  int32_t box_rows) {
  const auto [it, is_new] = maps_.try_emplace(Key{data, rows, row_bytes, box_rows});
  if (!is_new) return it->second;
  const cuuint64_t size[] = {static_cast<cuuint64_t>(row_bytes), static_cast<cuuint64_t>(rows)};
  const cuuint64_t pitch[] = {static_cast<cuuint64_t>(row_bytes)};
  const cuuint32_t box[] = {128, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t step[] = {1, 1};
  const CUresult status =
      encode_(&it->second, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, const_cast<void*>(data), size, pitch,
              box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
              CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    maps_.erase(it);
    throw DeviceError("cuTensorMapEncodeTiled failed with " + std::to_string(status) + " for " +
                      std::to_string(rows) + " rows of " + std::to_string(row_bytes));
  }
  return it->second;
}

}  // namespace troupe::cuda
