#include "http/head_check.h"

#include <algorithm>
#include <charconv>

namespace troupe {
namespace {

HeadState bad(int32_t status, std::string_view reason) {
  return {.kind = HeadState::Kind::kBad, .size = 0, .status = status, .reason = reason};
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

}  // namespace

HeadState check_head(std::string_view bytes) {
  size_t fields = 0;
  size_t line = 0;  // where the current line starts
  const size_t limit = std::min(bytes.size(), kMaxHeadBytes);
  for (size_t i = 0; i < limit; ++i) {
    if (bytes[i] == '\n') return bad(400, "a line ends with LF alone");
    if (bytes[i] != '\r') continue;
    if (i + 1 == limit) break;
    if (bytes[i + 1] != '\n') return bad(400, "a CR without LF in the header");
    if (i == line) {
      if (line == 0) return bad(400, "an empty request line");
      return {.kind = HeadState::Kind::kComplete, .size = i + 2, .status = 0, .reason = {}};
    }
    if (line > 0) {
      if (bytes[line] == ' ' || bytes[line] == '\t') return bad(400, "a folded header field");
      if (++fields > kMaxHeadFields) return bad(431, "too many header fields");
    }
    line = i + 2;
    ++i;
  }
  if (bytes.size() < kMaxHeadBytes) return {};
  return line == 0 ? bad(414, "the request target is too long") : bad(431, "the header is too big");
}

int64_t content_length_value(std::string_view value) {
  int64_t length = -1;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), length);
  const bool digits =
      std::all_of(value.begin(), value.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (value.empty() || !digits || error != std::errc() || end != value.data() + value.size()) {
    return -1;
  }
  return length;
}

bool iequals(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower(x) == lower(y); });
}

std::string percent_decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    uint8_t byte = 0;
    const char* hex = text.data() + i + 1;
    if (text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(hex, hex + 2, byte, 16).ptr == hex + 2) {
      out += static_cast<char>(byte);
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

bool is_json_type(std::string_view content_type) {
  std::string_view type = content_type.substr(0, content_type.find(';'));
  while (!type.empty() && (type.back() == ' ' || type.back() == '\t')) type.remove_suffix(1);
  return iequals(type, "application/json");
}

bool is_request_id(std::string_view id) {
  return !id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), [](char c) {
    return c > ' ' && c < 0x7F && c != '"' && c != '\\';
  });
}

bool constant_time_equal(std::string_view given, std::string_view secret) {
  if (secret.empty()) return false;
  size_t difference = given.size() ^ secret.size();
  for (size_t i = 0; i < given.size(); ++i) {
    difference |= static_cast<unsigned char>(given[i] ^ secret[i % secret.size()]);
  }
  return difference == 0;
}

}  // namespace troupe
