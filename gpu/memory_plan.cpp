#include "gpu/memory_plan.h"

#include <algorithm>
#include <utility>

namespace troupe {

std::string mebibytes(int64_t bytes) {
  return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB";
}

Status check_memory(std::span<const MemoryNeed> needs, int32_t n_slots) {
  for (const MemoryNeed& here : needs) {
    MemoryNeed sum;
    sum.available = here.available;
    int32_t ranks = 0;
    for (const MemoryNeed& other : needs) {
      if (other.host != here.host) continue;
      sum.weights += other.weights;
      sum.workspace += other.workspace;
      sum.kv_per_slot += other.kv_per_slot;
      sum.available = std::min(sum.available, other.available);
      ++ranks;
    }
    const int64_t fixed = sum.weights + sum.workspace;
    const int64_t kv = sum.kv_per_slot * n_slots;
    if (fixed + kv <= sum.available) continue;
    const int64_t fitting = (sum.available - fixed) / std::max<int64_t>(1, sum.kv_per_slot);
    std::string text = std::to_string(ranks) + (ranks == 1 ? " rank" : " ranks on one host") +
                       (ranks == 1 ? " needs " : " need ") + mebibytes(fixed + kv) + " (weights " +
                       mebibytes(sum.weights) + ", KV " + mebibytes(kv) + ", workspace " +
                       mebibytes(sum.workspace) + "), the host has " + mebibytes(sum.available) +
                       " available; ";
    text += fitting > 0 ? "lower --kv-tokens to at most " + std::to_string(fitting)
                        : "the weights do not fit: use a smaller model or spread it over hosts";
    return fail(ErrorCode::kOutOfMemory, std::move(text), "kv_tokens");
  }
  return ok_status();
}

}  // namespace troupe
