#pragma once

#include "actors/text/vocabulary.h"
#include "gpu/base/result.h"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace troupe {

/// Cuts text into the words that BPE then works on. Immutable; any thread.
class Pretokenizer {
 public:
  /// kBadModel when a regex does not compile.
  static Result<Pretokenizer> make(const std::vector<SplitStep>& steps);
  Pretokenizer(Pretokenizer&&) noexcept;
  Pretokenizer& operator=(Pretokenizer&&) noexcept;
  ~Pretokenizer();

  /// The words of `text` (valid UTF-8) in order; together they are the text, less what a kRemoved
  /// step took out. Never fails: where a regex gives up, it goes on with bounded stretches.
  [[nodiscard]] std::vector<std::string_view> split(std::string_view text) const;

 private:
  struct Regex;
  struct Step;
  explicit Pretokenizer(std::vector<Step> steps);
  std::vector<Step> steps_;
};

/// Escapes `text` so that it matches itself.
[[nodiscard]] std::string regex_literal(std::string_view text);

}  // namespace troupe
