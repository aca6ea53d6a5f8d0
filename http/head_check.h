#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace troupe {

inline constexpr size_t kMaxHeadBytes = 8192;
inline constexpr size_t kMaxHeadFields = 100;

/// What the raw bytes of a request head say before any parser sees them. Parsers repair what two
/// servers in a row may repair differently (request smuggling); we refuse instead.
struct HeadState {
  enum class Kind { kIncomplete, kComplete, kBad };
  Kind kind = Kind::kIncomplete;
  size_t size = 0;          // kComplete: bytes up to and with the empty line
  int32_t status = 400;     // kBad
  std::string_view reason;  // kBad
};

/// Looks at the start of `bytes`, which begins with a request line. Refused: a CR or LF that is
/// not part of a CR LF pair, folded fields, heads over 8 KiB (431, or 414 if it is the request
/// line), more than 100 fields (431).
[[nodiscard]] HeadState check_head(std::string_view bytes);

/// A Content-Length value that is digits only and fits; -1 otherwise.
[[nodiscard]] int64_t content_length_value(std::string_view value);

/// `text` with every %XX replaced by its byte; what is no such escape stays as it is.
[[nodiscard]] std::string percent_decoded(std::string_view text);

/// True for `application/json`, any case, with or without parameters.
[[nodiscard]] bool is_json_type(std::string_view content_type);

/// True for 1 to 128 printable ASCII characters without spaces, quotes and backslashes.
[[nodiscard]] bool is_request_id(std::string_view id);

/// Compares without telling by its time where the two differ; only the length of `given` shows.
[[nodiscard]] bool constant_time_equal(std::string_view given, std::string_view secret);

/// ASCII case-insensitive equality.
[[nodiscard]] bool iequals(std::string_view a, std::string_view b);

}  // namespace troupe
