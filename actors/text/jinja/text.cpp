#include "actors/text/jinja/text.h"

#include <unicode/locid.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <algorithm>

namespace troupe::jinja {

void Text::append(std::string_view bytes, Origin origin) {
  if (bytes.empty()) return;
  bytes_.append(bytes);
  if (!runs_.empty() && runs_.back().origin == origin) {
    runs_.back().end = bytes_.size();
  } else {
    runs_.push_back({bytes_.size(), origin});
  }
}

void Text::append(const Text& other, size_t begin, size_t end) {
  auto run = std::upper_bound(other.runs_.begin(), other.runs_.end(), begin,
                              [](size_t at, const Run& r) { return at < r.end; });
  for (; begin < end; ++run) {
    const size_t stop = std::min(end, run->end);
    append(std::string_view(other.bytes_).substr(begin, stop - begin), run->origin);
    begin = stop;
  }
}

Text Text::slice(size_t begin, size_t end) const {
  Text out;
  out.append(*this, begin, end);
  return out;
}

CodePoint code_point_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const unsigned lead = byte(at);
  const size_t n = lead < 0xC2 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 1;
  if (n == 1) return {static_cast<char32_t>(lead), 1};
  char32_t value = lead & (0xFFU >> (n + 1));
  for (size_t i = 1; i < n; ++i) {
    if ((byte(at + i) & 0xC0U) != 0x80U) return {static_cast<char32_t>(lead), 1};
    value = (value << 6U) | (byte(at + i) & 0x3FU);
  }
  return {value, n};
}

void append_utf8(std::string& out, char32_t c) {
  const auto push = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    push(c);
  } else if (c < 0x800) {
    push(0xC0U | (c >> 6U));
    push(0x80U | (c & 0x3FU));
  } else if (c < 0x10000) {
    push(0xE0U | (c >> 12U));
    push(0x80U | ((c >> 6U) & 0x3FU));
    push(0x80U | (c & 0x3FU));
  } else {
    push(0xF0U | (c >> 18U));
    push(0x80U | ((c >> 12U) & 0x3FU));
    push(0x80U | ((c >> 6U) & 0x3FU));
    push(0x80U | (c & 0x3FU));
  }
}

bool is_valid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    std::string again;
    append_utf8(again, c.value);
    const bool surrogate = c.value >= 0xD800 && c.value <= 0xDFFF;
    if (surrogate || c.value > 0x10FFFF || again != text.substr(at, c.bytes)) return false;
    at += c.bytes;
  }
  return true;
}

size_t length(std::string_view text) {
  size_t n = 0;
  for (size_t at = 0; at < text.size(); at += code_point_at(text, at).bytes) ++n;
  return n;
}

bool is_space(char32_t c) {
  return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_printable(char32_t c) {
  constexpr uint32_t kHidden = U_GC_C_MASK | U_GC_Z_MASK;
  return c == ' ' || (U_GET_GC_MASK(static_cast<UChar32>(c)) & kHidden) == 0;
}

namespace {

bool strips(std::string_view character, char32_t value, const std::string* set) {
  return set == nullptr ? is_space(value) : set->find(character) != std::string::npos;
}

std::string cased(std::string_view text, bool upper) {
  auto unicode = icu::UnicodeString::fromUTF8(
      icu::StringPiece(text.data(), static_cast<int32_t>(text.size())));
  if (upper) {
    unicode.toUpper(icu::Locale::getRoot());
  } else {
    unicode.toLower(icu::Locale::getRoot());
  }
  std::string out;
  unicode.toUTF8String(out);
  return out;
}

}  // namespace

size_t strip_left(std::string_view text, const std::string* set) {
  size_t at = 0;
  while (at < text.size()) {
    const CodePoint c = code_point_at(text, at);
    if (!strips(text.substr(at, c.bytes), c.value, set)) break;
    at += c.bytes;
  }
  return at;
}

size_t strip_right(std::string_view text, const std::string* set) {
  size_t end = text.size();
  while (end > 0) {
    size_t at = end - 1;
    while (at > 0 && end - at < 4 && (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80U) --at;
    const CodePoint c = code_point_at(text, at);
    if (at + c.bytes != end || !strips(text.substr(at, c.bytes), c.value, set)) break;
    end = at;
  }
  return end;
}

Text change_case(const Text& text, Case mode) {
  Text out;
  const std::string& bytes = text.bytes();
  size_t begin = 0;
  bool start = true;  // of a word (kTitle) or of the text (kCapitalize)
  for (const Text::Run& run : text.runs()) {
    if (mode == Case::kUpper || mode == Case::kLower) {
      const auto part = std::string_view(bytes).substr(begin, run.end - begin);
      out.append(cased(part, mode == Case::kUpper), run.origin);
      begin = run.end;
      continue;
    }
    while (begin < run.end) {
      const CodePoint c = code_point_at(bytes, begin);
      const auto symbol = static_cast<UChar32>(c.value);
      std::string one;
      append_utf8(one, static_cast<char32_t>(start ? u_totitle(symbol) : u_tolower(symbol)));
      out.append(one, run.origin);
      start = mode == Case::kTitle && u_hasBinaryProperty(symbol, UCHAR_CASED) == 0;
      begin += c.bytes;
    }
  }
  return out;
}

Text replace(const Text& text, std::string_view from, const Text& to, int64_t count) {
  Text out;
  const std::string& bytes = text.bytes();
  size_t at = 0;
  while (count != 0) {
    // An empty `from` matches before every character and at the end, as in Python.
    const size_t hit = from.empty() ? at : bytes.find(from, at);
    if (hit == std::string::npos) break;
    out.append(text, at, hit);
    out.append(to);
    --count;
    at = hit + from.size();
    if (!from.empty()) continue;
    if (at >= bytes.size()) return out;
    const size_t next = at + code_point_at(bytes, at).bytes;
    out.append(text, at, next);
    at = next;
  }
  out.append(text, at, bytes.size());
  return out;
}

}  // namespace troupe::jinja
