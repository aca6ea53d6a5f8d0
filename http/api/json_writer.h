#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace troupe {

/// Appends `text` as a JSON string with its quotes. Whatever the bytes, the result is valid UTF-8:
/// each byte that cannot be part of a character becomes U+FFFD.
void append_json_string(std::string& out, std::string_view text);

void append_json_number(std::string& out, int64_t value);

/// Shortest form that reads back as the same float. JSON has no infinities: what is below -9999,
/// and NaN, is written as -9999.0 (what OpenAI sends for an impossible token).
void append_json_logprob(std::string& out, float value);

/// Bytes of the UTF-8 character at the start of `text`, 0 if there is none that is complete and
/// well-formed (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF).
[[nodiscard]] size_t utf8_character(std::string_view text);

/// `text` with every byte that is not part of a character replaced by U+FFFD.
[[nodiscard]] std::string to_valid_utf8(std::string_view text);

}  // namespace troupe
