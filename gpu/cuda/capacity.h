#pragma once

#include "gpu/base/result.h"
#include "gpu/executor.h"
#include "gpu/model/config.h"
#include "gpu/model/shard.h"

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace troupe::cuda {

/// What the driver and the runtime say about this host and its current device.
struct DeviceFacts {
  int driver = 0;   // newest CUDA that the driver knows, 1000 * major + 10 * minor; 0: no driver
  int runtime = 0;  // CUDA that this program was built with
  cudaError_t found = cudaSuccess;  // of asking for devices
  int count = 0;
  std::string name;
  int major = 0;  // compute capability
  int minor = 0;
  bool has_kernels = false;  // this program has code for it
};
/// One line that says why this program cannot run there and what to do; empty when it can.
std::string device_problem(const DeviceFacts& facts);

/// Makes GPU `index` of this host the thread's device, when this program can run on it; else
/// kInvalidArgument with device_problem(), or that there are too few.
struct DeviceInfo {
  std::string name;
  size_t total_bytes = 0;
  size_t free_bytes = 0;
};
Result<DeviceInfo> use_device(int32_t index);
/// Devices of this host that have kernels here.
int32_t usable_gpus();

/// Whether the kernels can run this model's share: head size, widths, grouping.
Status check_model(const ModelConfig& config, const Shard& shard, int32_t n_ranks);

/// What a rank takes on its device.
struct DeviceNeed {
  size_t weights = 0;
  size_t weights_fp8 = 0;  // what they would take as e4m3; 0: they are
  size_t workspace = 0;
  size_t kv_per_slot = 0;
};
/// Kept free: the driver's own, graphs, and what fragmentation costs.
size_t margin_bytes(size_t total_bytes);
/// kOutOfMemory unless the share and `n_slots` slots fit; names the numbers and what would fit.
Status check_fit(const DeviceInfo& device, const DeviceNeed& need, int32_t n_slots);

/// Row counts that decode steps are captured for; the last is max_rows.
std::vector<int32_t> decode_buckets(int32_t max_rows);

}  // namespace troupe::cuda
