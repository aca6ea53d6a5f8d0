#pragma once

#include "actors/router/slot_allocator.h"

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

namespace troupe {

/// Who shares cached prefixes: only requests for which both are equal. Kept as they are, not mixed
/// into one number: a client that chose its salt could otherwise aim at another tenant's.
struct CacheSalt {
  uint64_t value = 0;                                  // the client's
  uint64_t tenant = 0;                                 // 0 where tenants share
  auto operator<=>(const CacheSalt&) const = default;  // NOLINT(modernize-use-nullptr)
};

/// Which slots hold the KV of which token prefix: a radix tree over token ids whose values are
/// slots, one tree per salt (requests of different salts never share).
///
/// **When a slot may be read.** The ranks run plans in order, so a plan may read every slot that an
/// earlier plan writes, whether or not that plan has returned. So a chunk is inserted when the plan
/// that computes it is complete, and a match is used only by a later plan. Nothing has to wait for
/// a result.
///
/// **Who owns a slot.** Those of the tree belong to the tree; a sequence keeps them alive by its
/// Ref. A sequence that computed tokens which the tree already has keeps its own copy until it
/// ends. Sequences that hold a Ref to a node hold its ancestors too.
///
/// O(tokens) per operation, O(depth) hash look-ups; eviction O(log nodes) per node.
class PrefixCache {
 public:
  struct Node;
  /// The end of a path that its holder keeps from being evicted. Null holds nothing.
  using Ref = Node*;

  PrefixCache();
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  /// Length of the longest cached prefix of `tokens`, and how much of it others hold (such slots
  /// are used anyway). Changes nothing.
  struct Length {
    int32_t cached = 0;
    int32_t held = 0;
  };
  [[nodiscard]] Length peek(std::span<const int32_t> tokens, const CacheSalt& salt) const;

  /// Extends `slots` and `ref` by what the tree has of `tokens` beyond slots.size(), which must be
  /// the length of the path to `ref` (null: 0).
  void extend(std::span<const int32_t> tokens, const CacheSalt& salt, std::vector<int32_t>& slots,
              Ref& ref);

  /// Hands the slots of tokens[from..] to the tree below `ref`, whose path is tokens[..from], and
  /// moves `ref` to the new end. Stops at the first token that the tree has already: returns how
  /// many tokens the path to `ref` has now; slots from there on stay the caller's.
  [[nodiscard]] int32_t insert(std::span<const int32_t> tokens, std::span<const int32_t> slots,
                               int32_t from, const CacheSalt& salt, Ref& ref);

  /// A sequence ends. `tokens` have slots `slots`; the first `from` of them are the path to `ref`.
  /// What the tree lacks is kept there, copies of what it has are freed.
  void release(std::span<const int32_t> tokens, std::span<const int32_t> slots, int32_t from,
               const CacheSalt& salt, Ref ref, SlotAllocator& allocator);

  /// Frees the least recently used slots that nobody holds, at least `n` if there are so many.
  void evict(int32_t n, SlotAllocator& allocator);

  /// Forgets everything: no later match sees what was inserted before. Slots that are held go when
  /// their holders let go.
  void reset(SlotAllocator& allocator);

  [[nodiscard]] int32_t total() const { return total_; }          // slots in the tree
  [[nodiscard]] int32_t evictable() const { return evictable_; }  // of them held by nobody
  void for_each_slot(const std::function<void(int32_t)>& visit) const;
  /// Aborts if counts or links are wrong. `holders` are all Refs in use. O(everything).
  void check(std::span<const Ref> holders) const;

 private:
  struct Key {
    uint64_t parent = 0;
    int32_t token = 0;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& k) const {
      uint64_t h = k.parent * 0x9E3779B97F4A7C15ULL + static_cast<uint32_t>(k.token);
      h = (h ^ (h >> 30U)) * 0xBF58476D1CE4E5B9ULL;
      return static_cast<size_t>(h ^ (h >> 31U));
    }
  };

  Node& root(const CacheSalt& salt);
  [[nodiscard]] static const Node& root_of(const Node& node);
  [[nodiscard]] Node* child(const Node& node, int32_t token) const;
  Node& add_child(Node& parent, std::span<const int32_t> tokens, std::span<const int32_t> slots);
  Node* split(Node& node, size_t at);
  void hold(Node& node, const Node* from);
  void let_go(Node& node, SlotAllocator& allocator);
  void remove(Node& node, SlotAllocator& allocator);
  void list(Node& node);
  void unlist(Node& node);

  std::unordered_map<uint64_t, std::unique_ptr<Node>> nodes_;  // by id
  std::map<CacheSalt, Node*> roots_;
  std::unordered_map<Key, Node*, KeyHash> children_;
  std::set<std::pair<uint64_t, uint64_t>> leaves_;  // last use, id: leaves that nobody holds
  uint64_t next_id_ = 1;
  uint64_t uses_ = 0;
  int32_t total_ = 0;
  int32_t evictable_ = 0;
};

}  // namespace troupe
