#include "actors/text/utf8.h"

#include <cstdint>

namespace troupe {
namespace {

struct Lead {
  size_t length;
  uint8_t second_min, second_max;  // bounds of the second byte (Unicode table 3-7)
};

Lead lead_of(uint8_t b) {
  if (b < 0x80) return {1, 0, 0};
  if (b < 0xc2 || b > 0xf4) return {0, 0, 0};
  if (b < 0xe0) return {2, 0x80, 0xbf};
  if (b == 0xe0) return {3, 0xa0, 0xbf};
  if (b == 0xed) return {3, 0x80, 0x9f};
  if (b < 0xf0) return {3, 0x80, 0xbf};
  if (b == 0xf0) return {4, 0x90, 0xbf};
  if (b == 0xf4) return {4, 0x80, 0x8f};
  return {4, 0x80, 0xbf};
}

}  // namespace

Utf8Head utf8_head(std::string_view text) {
  using Kind = Utf8Head::Kind;
  const Lead lead = lead_of(static_cast<uint8_t>(text[0]));
  if (lead.length == 0) return {Kind::kInvalid, 1};
  for (size_t i = 1; i < lead.length; ++i) {
    if (i == text.size()) return {Kind::kUnfinished, i};
    const auto b = static_cast<uint8_t>(text[i]);
    const uint8_t low = i == 1 ? lead.second_min : uint8_t{0x80};
    const uint8_t high = i == 1 ? lead.second_max : uint8_t{0xbf};
    if (b < low || b > high) return {Kind::kInvalid, i};
  }
  return {Kind::kCharacter, lead.length};
}

size_t utf8_valid_prefix(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Head head = utf8_head(text.substr(at));
    if (head.kind != Utf8Head::Kind::kCharacter) break;
    at += head.length;
  }
  return at;
}

void utf8_take_complete(std::string& bytes, std::string& out) {
  size_t at = 0;
  while (at < bytes.size()) {
    const Utf8Head head = utf8_head(std::string_view(bytes).substr(at));
    if (head.kind == Utf8Head::Kind::kUnfinished) break;
    if (head.kind == Utf8Head::Kind::kCharacter) {
      out.append(bytes, at, head.length);
    } else {
      out += "\xef\xbf\xbd";
    }
    at += head.length;
  }
  bytes.erase(0, at);
}

}  // namespace troupe
