#include "actors/text/stop_matcher.h"

#include <utility>

namespace troupe {

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)), nodes_(1) {
  for (size_t s = 0; s < stops_.size(); ++s) {
    int32_t node = 0;
    for (const char c : stops_[s]) {
      int32_t next = child(node, c);
      if (next < 0) {
        next = static_cast<int32_t>(nodes_.size());
        nodes_[static_cast<size_t>(node)].next.emplace_back(c, next);
        Node fresh;
        fresh.depth = nodes_[static_cast<size_t>(node)].depth + 1;
        nodes_.push_back(std::move(fresh));
      }
      node = next;
    }
    if (node != 0) nodes_[static_cast<size_t>(node)].match = static_cast<int32_t>(s);
  }
  // Breadth first: a node's failure link is shallower, so it is ready when needed.
  std::vector<int32_t> queue{0};
  for (size_t i = 0; i < queue.size(); ++i) {
    const int32_t parent = queue[i];
    for (const auto& [c, node] : nodes_[static_cast<size_t>(parent)].next) {
      Node& n = nodes_[static_cast<size_t>(node)];
      n.fail = parent == 0 ? 0 : step(nodes_[static_cast<size_t>(parent)].fail, c);
      if (n.match < 0) n.match = nodes_[static_cast<size_t>(n.fail)].match;
      queue.push_back(node);
    }
  }
}

int32_t StopMatcher::child(int32_t node, char c) const {
  for (const auto& [key, next] : nodes_[static_cast<size_t>(node)].next) {
    if (key == c) return next;
  }
  return -1;
}

int32_t StopMatcher::step(int32_t node, char c) const {
  for (;;) {
    const int32_t next = child(node, c);
    if (next >= 0) return next;
    if (node == 0) return 0;
    node = nodes_[static_cast<size_t>(node)].fail;
  }
}

StopMatcher::Output StopMatcher::push(std::string_view text) {
  if (found_ >= 0) return {{}, true, stops_[static_cast<size_t>(found_)]};
  Output output;
  output.text = std::move(held_);
  held_.clear();
  for (const char c : text) {
    output.text += c;
    state_ = step(state_, c);
    found_ = nodes_[static_cast<size_t>(state_)].match;
    if (found_ >= 0) {
      output.stopped = true;
      output.stop = stops_[static_cast<size_t>(found_)];
      output.text.resize(output.text.size() - output.stop.size());
      return output;
    }
  }
  const auto keep = static_cast<size_t>(nodes_[static_cast<size_t>(state_)].depth);
  held_ = output.text.substr(output.text.size() - keep);
  output.text.resize(output.text.size() - keep);
  return output;
}

std::string StopMatcher::flush() {
  state_ = 0;
  return std::exchange(held_, {});
}

}  // namespace troupe
