#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace troupe {

/// What the bytes at the start of a text are.
struct Utf8Head {
  enum class Kind { kCharacter, kInvalid, kUnfinished };
  Kind kind = Kind::kInvalid;
  size_t length = 0;  // of the character; of the bytes to give up on; of the unfinished tail
};

/// Looks at the first character of a non-empty `text` (RFC 3629: no overlong forms, no surrogates).
/// kInvalid covers the longest beginning of a character that can never be completed, at least one
/// byte; kUnfinished means the text ends inside a character that may still be completed.
[[nodiscard]] Utf8Head utf8_head(std::string_view text);

/// Length of the longest valid beginning of `text`.
[[nodiscard]] size_t utf8_valid_prefix(std::string_view text);

/// Moves whole characters from the front of `bytes` to `out`, U+FFFD for what can never become one.
/// At most 3 bytes of an unfinished character stay in `bytes`.
void utf8_take_complete(std::string& bytes, std::string& out);

}  // namespace troupe
