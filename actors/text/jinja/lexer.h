#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::jinja {

struct Token {
  enum class Kind : uint8_t {
    kText,        // outside of tags, white space control already applied
    kPrintBegin,  // {{
    kPrintEnd,    // }}
    kBlockBegin,  // {%
    kBlockEnd,    // %}
    kName,
    kString,   // text is the value, escapes resolved
    kInteger,  // text is the digits
    kFloat,
    kOperator,
    kEnd,
  };
  Kind kind = Kind::kEnd;
  int32_t line = 1;
  std::string text;
};

/// Splits a template into tokens; the last is kEnd. Linear in the source. Throws Failure.
std::vector<Token> tokenize(std::string_view source);

}  // namespace troupe::jinja
