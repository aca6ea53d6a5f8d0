#pragma once

#include "gpu/base/check.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace troupe {

/// The free slots of one replica's KV pool. Last freed, first used: hot memory first. Detects a
/// double free and a foreign slot. O(1) per slot.
class SlotAllocator {
 public:
  explicit SlotAllocator(int32_t n_slots) : used_(static_cast<size_t>(n_slots), false) {
    free_.reserve(used_.size());
    for (int32_t s = n_slots - 1; s >= 0; --s) free_.push_back(s);
  }

  [[nodiscard]] int32_t total() const { return static_cast<int32_t>(used_.size()); }
  [[nodiscard]] int32_t free() const { return static_cast<int32_t>(free_.size()); }
  [[nodiscard]] bool is_free(int32_t slot) const { return !used_.at(static_cast<size_t>(slot)); }

  /// Appends `n` slots to `out`. Requires n <= free().
  void take(int32_t n, std::vector<int32_t>& out) {
    TROUPE_CHECK(n >= 0 && n <= free()) << n << " slots wanted, " << free() << " free";
    for (int32_t i = 0; i < n; ++i) {
      const int32_t slot = free_.back();
      free_.pop_back();
      used_[static_cast<size_t>(slot)] = true;
      out.push_back(slot);
    }
  }

  void give_back(int32_t slot) {
    TROUPE_CHECK(slot >= 0 && slot < total()) << "slot " << slot << " of " << total();
    TROUPE_CHECK(used_[static_cast<size_t>(slot)]) << "slot " << slot << " freed twice";
    used_[static_cast<size_t>(slot)] = false;
    free_.push_back(slot);
  }

 private:
  std::vector<int32_t> free_;
  std::vector<bool> used_;
};

}  // namespace troupe
