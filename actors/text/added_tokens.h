#pragma once

#include "actors/text/vocabulary.h"

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe {

/// A stretch of a prompt whose control tokens may be recognised: [begin, end) in bytes.
struct TrustedRange {
  size_t begin = 0;
  size_t end = 0;
};

/// Finds added tokens in a text: leftmost, then longest.
class AddedTokens {
 public:
  AddedTokens() : nodes_(1) {}
  /// Texts are non-empty (the caller checked).
  explicit AddedTokens(std::vector<AddedToken> tokens);

  struct Section {
    size_t begin = 0;
    size_t end = 0;
    int32_t token = -1;  // -1: ordinary text
  };
  /// Cuts `text` into ordinary stretches and added tokens. A token that is special, or looks like
  /// one ("<|...|>"), counts only when it lies in one of `trusted` (sorted, disjoint).
  [[nodiscard]] std::vector<Section> split(std::string_view text,
                                           const std::vector<TrustedRange>& trusted) const;

 private:
  struct Node {
    std::vector<std::pair<char, int32_t>> next;
    int32_t token = -1;  // index into tokens_
  };
  [[nodiscard]] int32_t longest_at(std::string_view text, size_t at, size_t trusted_end) const;

  std::vector<AddedToken> tokens_;
  std::vector<bool> guarded_;
  std::vector<Node> nodes_;
};

}  // namespace troupe
