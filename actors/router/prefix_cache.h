#pragma once

#include "actors/router/slot_allocator.h"

#include <cstdint>
#include <span>
#include <vector>

namespace troupe {

/// Which slots already hold the KV of a token prefix, and what becomes of the slots of a sequence
/// that ends. This one keeps nothing: no prefix is ever found and every slot is free at once. A
/// radix tree over token ids belongs here.
class PrefixCache {
 public:
  /// Slots of the longest cached prefix of `tokens`, at most tokens.size() - 1 of them (the last
  /// token is always computed, its logits are needed).
  [[nodiscard]] std::vector<int32_t> match(std::span<const int32_t> /*tokens*/) const { return {}; }

  /// The sequence `tokens` no longer uses `slots` (slot i holds token i).
  void release(std::span<const int32_t> /*tokens*/, std::span<const int32_t> slots,
               SlotAllocator& allocator) {
    for (const int32_t slot : slots) allocator.give_back(slot);
  }

  /// Slots held by the cache alone.
  [[nodiscard]] int32_t held() const { return 0; }
};

}  // namespace troupe
