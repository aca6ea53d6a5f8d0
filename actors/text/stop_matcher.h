#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace troupe {

/// Finds the first stop string in a stream of text, holding back any tail that could be the
/// beginning of one. Linear in the text (Aho-Corasick 1975).
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);

  struct Output {
    std::string text;      // safe to give out
    bool stopped = false;  // a stop string ended here; text is what came before it
    std::string stop;      // which
  };
  Output push(std::string_view text);
  /// The end of the text: what was held back.
  std::string flush();

 private:
  struct Node {
    std::array<int32_t, 256> next{};  // goto with failure links folded in
    int32_t depth = 0;
    int32_t match = -1;  // index of the stop that ends here
  };
  std::vector<std::string> stops_;
  std::vector<Node> nodes_;
  int32_t state_ = 0;
  std::string held_;
};

}  // namespace troupe
