#pragma once

#include "gpu/base/result.h"
#include "gpu/executor.h"
#include "gpu/model/config.h"
#include "gpu/model/shard.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace troupe::cuda {

/// Makes GPU `index` of this host the thread's device, when this program can run on it. One line
/// says what is in the way: no GPU, too few, an old driver, an old or foreign architecture.
struct DeviceInfo {
  std::string name;
  size_t total_bytes = 0;
  size_t free_bytes = 0;
};
Result<DeviceInfo> use_device(int32_t index);

/// Whether the kernels can run this model's share: head size, widths, grouping.
Status check_model(const ModelConfig& config, const Shard& shard, int32_t n_ranks);

/// What a rank takes on its device.
struct DeviceNeed {
  size_t weights = 0;
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
