#include "actors/router/prefix_cache.h"

#include "actors/router/planted_bug.h"
#include "gpu/base/check.h"

#include <algorithm>
#include <cstddef>

namespace troupe {

/// A run of tokens. `refs` counts the holders at or below it, so a node's refs are never fewer than
/// a child's. A holder's Ref is the last node of its path: a split keeps it valid by making the new
/// node the upper part.
struct PrefixCache::Node {
  uint64_t id = 0;
  Node* parent = nullptr;       // null: a root, which has no tokens
  std::vector<int32_t> tokens;  // and their
  std::vector<int32_t> slots;
  int32_t refs = 0;
  int32_t n_children = 0;
  uint64_t last_use = 0;
  CacheSalt salt;          // roots
  bool forgotten = false;  // roots: after a reset
  bool listed = false;     // in leaves_
};

namespace {

size_t common(std::span<const int32_t> a, std::span<const int32_t> b) {
  const size_t n = std::min(a.size(), b.size());
  return static_cast<size_t>(
      std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(n), b.begin()).first -
      a.begin());
}

}  // namespace

PrefixCache::PrefixCache() = default;
PrefixCache::~PrefixCache() = default;

PrefixCache::Length PrefixCache::peek(std::span<const int32_t> tokens,
                                      const CacheSalt& salt) const {
  Length length;
  const auto it = roots_.find(salt);
  const Node* node = it == roots_.end() ? nullptr : it->second;
  while (node != nullptr && !tokens.empty()) {
    node = child(*node, tokens.front());
    if (node == nullptr) break;
    const size_t n = common(node->tokens, tokens);
    length.cached += static_cast<int32_t>(n);
    if (node->refs > 0) length.held += static_cast<int32_t>(n);
    if (n < node->tokens.size()) break;
    tokens = tokens.subspan(n);
  }
  return length;
}

void PrefixCache::extend(std::span<const int32_t> tokens, const CacheSalt& salt,
                         std::vector<int32_t>& slots, Ref& ref) {
  Node* node = ref;
  if (node == nullptr) {
    const auto it = roots_.find(salt);
    if (it == roots_.end()) return;
    node = it->second;
  }
  const Node* begin = node;
  while (slots.size() < tokens.size()) {
    const auto rest = tokens.subspan(slots.size());
    Node* next = child(*node, rest.front());
    if (next == nullptr) break;
    const size_t n = common(next->tokens, rest);
    if (n < next->tokens.size()) next = split(*next, n);
    slots.insert(slots.end(), next->slots.begin(), next->slots.end());
    node = next;
  }
  if (node == begin) return;
  hold(*node, ref);
  ref = node;
}

int32_t PrefixCache::insert(std::span<const int32_t> tokens, std::span<const int32_t> slots,
                            int32_t from, const CacheSalt& salt, Ref& ref) {
  const auto at = static_cast<size_t>(from);
  if (at == tokens.size() || (ref != nullptr && root_of(*ref).forgotten)) return from;
  Node& parent = ref != nullptr ? *ref : root(salt);
  if (child(parent, tokens[at]) != nullptr) return from;
  const auto new_tokens = tokens.subspan(at);
  const auto new_slots = slots.subspan(at, new_tokens.size());
  if (ref != nullptr && parent.refs == 1 && parent.n_children == 0) {
    // Its only holder is the one that extends it.
    parent.tokens.insert(parent.tokens.end(), new_tokens.begin(), new_tokens.end());
    parent.slots.insert(parent.slots.end(), new_slots.begin(), new_slots.end());
    total_ += static_cast<int32_t>(new_tokens.size());
  } else {
    Node& node = add_child(parent, new_tokens, new_slots);
    hold(node, ref);
    ref = &node;
  }
  return static_cast<int32_t>(tokens.size());
}

void PrefixCache::release(std::span<const int32_t> tokens, std::span<const int32_t> slots,
                          int32_t from, const CacheSalt& salt, Ref ref, SlotAllocator& allocator) {
  auto at = static_cast<size_t>(from);
  if (ref == nullptr || !root_of(*ref).forgotten) {
    Node* node = ref;
    while (at < tokens.size()) {
      if (node == nullptr) node = &root(salt);
      const auto rest = tokens.subspan(at);
      Node* next = child(*node, rest.front());
      if (next == nullptr) {
        list(add_child(*node, rest, slots.subspan(at, rest.size())));
        at = tokens.size();
        break;
      }
      const size_t n = common(next->tokens, rest);
      if (n < next->tokens.size()) next = split(*next, n);
      for (size_t i = at; i < at + n; ++i) {
        if (!TROUPE_BUG(1)) allocator.give_back(slots[i]);
      }
      at += n;
      node = next;
    }
  }
  for (; at < slots.size(); ++at) allocator.give_back(slots[at]);
  if (ref != nullptr && !TROUPE_BUG(9)) let_go(*ref, allocator);
}

void PrefixCache::evict(int32_t n, SlotAllocator& allocator) {
  while (n > 0 && !leaves_.empty()) {
    Node& leaf = *nodes_.at(leaves_.begin()->second);
    const auto size = static_cast<int32_t>(leaf.tokens.size());
    if (size <= n) {
      n -= size;
      remove(leaf, allocator);
      continue;
    }
    // Only its end: what stays is still a prefix.
    const auto keep = static_cast<size_t>(size - n);
    for (size_t i = keep; i < leaf.slots.size(); ++i) allocator.give_back(leaf.slots[i]);
    leaf.tokens.resize(keep);
    leaf.slots.resize(keep);
    total_ -= n;
    evictable_ -= n;
    n = 0;
  }
}

void PrefixCache::reset(SlotAllocator& allocator) {
  for (const auto& [salt, node] : roots_) node->forgotten = true;
  roots_.clear();
  evict(evictable_, allocator);
}

PrefixCache::Node& PrefixCache::root(const CacheSalt& salt) {
  Node*& at = roots_[salt];
  if (at == nullptr) {
    auto node = std::make_unique<Node>();
    node->id = next_id_++;
    node->salt = salt;
    at = node.get();
    nodes_.emplace(node->id, std::move(node));
  }
  return *at;
}

const PrefixCache::Node& PrefixCache::root_of(const Node& node) {
  const Node* up = &node;
  while (up->parent != nullptr) up = up->parent;
  return *up;
}

PrefixCache::Node* PrefixCache::child(const Node& node, int32_t token) const {
  if (node.n_children == 0) return nullptr;
  const auto it = children_.find({node.id, token});
  return it == children_.end() ? nullptr : it->second;
}

// A new leaf that nobody holds yet.
PrefixCache::Node& PrefixCache::add_child(Node& parent, std::span<const int32_t> tokens,
                                          std::span<const int32_t> slots) {
  auto owned = std::make_unique<Node>();
  Node& node = *owned;
  node.id = next_id_++;
  node.parent = &parent;
  node.tokens.assign(tokens.begin(), tokens.end());
  node.slots.assign(slots.begin(), slots.end());
  node.last_use = ++uses_;
  nodes_.emplace(node.id, std::move(owned));
  children_.emplace(Key{parent.id, tokens.front()}, &node);
  unlist(parent);
  ++parent.n_children;
  total_ += static_cast<int32_t>(tokens.size());
  evictable_ += static_cast<int32_t>(tokens.size());
  return node;
}

// Cuts a node after `at` tokens. The new node is the upper part, so Refs to the old one stay right.
PrefixCache::Node* PrefixCache::split(Node& node, size_t at) {
  auto owned = std::make_unique<Node>();
  Node& upper = *owned;
  const auto cut = static_cast<std::ptrdiff_t>(at);
  upper.id = next_id_++;
  upper.parent = node.parent;
  upper.tokens.assign(node.tokens.begin(), node.tokens.begin() + cut);
  upper.slots.assign(node.slots.begin(), node.slots.begin() + cut);
  upper.refs = node.refs;
  upper.n_children = 1;
  upper.last_use = node.last_use;
  nodes_.emplace(upper.id, std::move(owned));
  children_[{node.parent->id, node.tokens.front()}] = &upper;
  children_.emplace(Key{upper.id, node.tokens[at]}, &node);
  node.parent = &upper;
  node.tokens.erase(node.tokens.begin(), node.tokens.begin() + cut);
  node.slots.erase(node.slots.begin(), node.slots.begin() + cut);
  return &upper;
}

// A holder comes to `node`, from `from` above it (null: from nowhere).
void PrefixCache::hold(Node& node, const Node* from) {
  ++uses_;
  for (Node* up = &node; up != from; up = up->parent) {
    if (up->refs++ == 0 && up->parent != nullptr) {
      evictable_ -= static_cast<int32_t>(up->tokens.size());
      unlist(*up);
    }
    up->last_use = uses_;
  }
}

void PrefixCache::let_go(Node& node, SlotAllocator& allocator) {
  ++uses_;
  const bool forgotten = root_of(node).forgotten;
  for (Node* up = &node; up != nullptr; up = up->parent) {
    TROUPE_CHECK(up->refs > 0) << "a prefix is let go twice";
    up->last_use = uses_;
    if (--up->refs > 0 || up->parent == nullptr) continue;
    evictable_ += static_cast<int32_t>(up->tokens.size());
    if (up->n_children == 0) list(*up);
  }
  if (!forgotten) return;
  Node* up = &node;
  while (up->parent != nullptr && up->refs == 0 && up->n_children == 0) {
    Node* const parent = up->parent;
    const bool last = parent->parent == nullptr && parent->n_children == 1 && parent->refs == 0;
    remove(*up, allocator);
    if (last) break;  // the root went too
    up = parent;
  }
}

// Frees an unheld leaf; its parent may become one.
void PrefixCache::remove(Node& node, SlotAllocator& allocator) {
  TROUPE_CHECK(node.refs == 0 && node.n_children == 0) << node.refs << " " << node.n_children;
  for (const int32_t slot : node.slots) allocator.give_back(slot);
  total_ -= static_cast<int32_t>(node.slots.size());
  evictable_ -= static_cast<int32_t>(node.slots.size());
  unlist(node);
  Node& parent = *node.parent;
  children_.erase({parent.id, node.tokens.front()});
  nodes_.erase(node.id);
  if (--parent.n_children > 0 || parent.refs > 0) return;
  if (parent.parent != nullptr) {
    list(parent);
  } else {
    if (!parent.forgotten) roots_.erase(parent.salt);
    nodes_.erase(parent.id);
  }
}

void PrefixCache::list(Node& node) {
  if (node.listed) return;
  node.listed = true;
  leaves_.emplace(node.last_use, node.id);
}

void PrefixCache::unlist(Node& node) {
  if (!node.listed) return;
  node.listed = false;
  leaves_.erase({node.last_use, node.id});
}

void PrefixCache::for_each_slot(const std::function<void(int32_t)>& visit) const {
  for (const auto& [id, node] : nodes_) {
    for (const int32_t slot : node->slots) visit(slot);
  }
}

void PrefixCache::check(std::span<const Ref> holders) const {
  std::unordered_map<const Node*, int32_t> refs;
  for (const Node* ref : holders) {
    for (const Node* up = ref; up != nullptr; up = up->parent) ++refs[up];
  }
  int64_t total = 0;
  int64_t evictable = 0;
  size_t listed = 0;
  size_t edges = 0;
  for (const auto& [id, node] : nodes_) {
    TROUPE_CHECK(node->refs == refs[node.get()]) << node->refs << " refs at node " << id;
    TROUPE_CHECK(node->tokens.size() == node->slots.size()) << "node " << id;
    const bool leaf = node->n_children == 0 && node->refs == 0 && node->parent != nullptr;
    TROUPE_CHECK(node->listed == leaf) << "node " << id << " in the wrong list";
    if (node->listed) TROUPE_CHECK(leaves_.contains({node->last_use, id})) << "node " << id;
    listed += leaf ? 1 : 0;
    edges += static_cast<size_t>(node->n_children);
    total += static_cast<int64_t>(node->slots.size());
    if (node->refs == 0) evictable += static_cast<int64_t>(node->slots.size());
    if (node->parent == nullptr) {
      TROUPE_CHECK(node->tokens.empty() && node->n_children > 0) << "an empty root stays";
      continue;
    }
    TROUPE_CHECK(!node->tokens.empty() && child(*node->parent, node->tokens.front()) == node.get())
        << "node " << id << " is not its parent's child";
  }
  TROUPE_CHECK(listed == leaves_.size() && edges == children_.size()) << listed << " " << edges;
  TROUPE_CHECK(total == total_ && evictable == evictable_) << total << " " << evictable;
}

}  // namespace troupe
