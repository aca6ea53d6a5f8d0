#pragma once

#include "gpu/base/result.h"

#include <cstdint>
#include <span>
#include <string>

namespace troupe {

/// What one rank will take, in bytes. Plain numbers: ranks exchange it bytewise.
struct MemoryNeed {
  uint64_t host = 0;  // host_id(): ranks of one host draw on the same memory
  int64_t weights = 0;
  int64_t workspace = 0;
  int64_t kv_per_slot = 0;
  int64_t available = 0;  // on that host, before any rank allocates
};

/// Whether `n_slots` fit on every host of the replica. All ranks compute the same verdict from the
/// same needs. kOutOfMemory names the numbers and the largest --kv-tokens that would fit.
Status check_memory(std::span<const MemoryNeed> needs, int32_t n_slots);

/// "12 MiB", rounded up.
std::string mebibytes(int64_t bytes);

}  // namespace troupe
