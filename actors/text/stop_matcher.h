#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe {

/// Finds the first stop string in a stream of text, holding back any tail that could be the
/// beginning of one. First means: whose last byte comes first; the longest of those that end
/// together. Empty stop strings are ignored. Linear in the text (Aho-Corasick 1975).
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);

  struct Output {
    std::string text;      // safe to give out
    bool stopped = false;  // a stop string ended here; text is what came before it
    std::string stop;      // which
  };
  /// After a stop everything else is swallowed: empty text, stopped, the same stop.
  Output push(std::string_view text);
  /// The end of the text: what was held back.
  std::string flush();

 private:
  struct Node {
    std::vector<std::pair<char, int32_t>> next;  // few: a trie of a handful of strings
    int32_t fail = 0;                            // the longest proper suffix in the trie
    int32_t depth = 0;
    int32_t match = -1;  // the longest stop that is a suffix of this node
  };
  [[nodiscard]] int32_t child(int32_t node, char c) const;  // -1 = none
  [[nodiscard]] int32_t step(int32_t node, char c) const;

  std::vector<std::string> stops_;
  std::vector<Node> nodes_;
  int32_t state_ = 0;
  int32_t found_ = -1;
  std::string held_;  // always the text of `state_`: the tail that could begin a stop
};

}  // namespace troupe
