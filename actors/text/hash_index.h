#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace troupe {

/// An open-addressing index into somebody else's table: hash -> position, the caller compares. One
/// allocation for all entries, which is what makes a vocabulary quick to load.
class HashIndex {
 public:
  HashIndex() : slots_(1) {}
  /// Room for `count` entries at half load.
  explicit HashIndex(size_t count) : slots_(std::bit_ceil(2 * count + 1)) {}

  /// The position for which `equal(position)` holds, or -1.
  template <class Equal>
  [[nodiscard]] int32_t find(uint64_t hash, Equal&& equal) const {
    for (size_t at = start(hash);; at = next(at)) {
      const Slot& slot = slots_[at];
      if (slot.position < 0) return -1;
      if (slot.tag == tag(hash) && equal(slot.position)) return slot.position;
    }
  }

  /// Enters `position`; the caller made sure that no equal entry is there and that there is room.
  void insert(uint64_t hash, int32_t position) {
    size_t at = start(hash);
    while (slots_[at].position >= 0) at = next(at);
    slots_[at] = {tag(hash), position};
  }

 private:
  struct Slot {
    uint32_t tag = 0;
    int32_t position = -1;
  };
  static uint32_t tag(uint64_t hash) { return static_cast<uint32_t>(hash >> 32U); }
  [[nodiscard]] size_t start(uint64_t hash) const { return hash & (slots_.size() - 1); }
  [[nodiscard]] size_t next(size_t at) const { return (at + 1) & (slots_.size() - 1); }

  std::vector<Slot> slots_;  // a power of two, never full
};

}  // namespace troupe
