#pragma once

#include "http/message.h"

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe {

/// A parsed request head, as views.
struct RequestHead {
  unsigned version = 11;
  bool keep_alive = false;
  std::string_view method;
  std::string_view target;
  std::vector<std::pair<std::string_view, std::string_view>> fields;

  [[nodiscard]] size_t count(std::string_view name) const;
  /// The value of the first field of that name, or nothing.
  [[nodiscard]] std::optional<std::string_view> find(std::string_view name) const;
};

/// What one request's framing and connection fields say.
struct Framing {
  HttpRequest request;  // without body
  unsigned version = 11;
  bool keep_alive = false;
  bool has_body = false;
  bool expects_continue = false;
};

/// Checks what parsers let pass and two servers could read in two ways. On refusal nothing after
/// this head may be parsed.
[[nodiscard]] std::optional<HttpReply> check_framing(const RequestHead& head, int64_t max_body,
                                                     Framing& out);

}  // namespace troupe
