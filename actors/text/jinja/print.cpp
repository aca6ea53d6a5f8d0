#include "actors/text/jinja/value.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace troupe::jinja {
namespace {

void add(Text& out, std::string_view piece) { out.append(piece, Origin::kTemplate); }

/// Python's repr(float): the shortest digits that read back the same.
std::string float_repr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  std::array<char, 400> buffer{};
  const double size = std::fabs(d);
  const bool fixed = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), d,
                                 fixed ? std::chars_format::fixed : std::chars_format::scientific);
  std::string text(buffer.data(), end.ptr);
  if (fixed && text.find('.') == std::string::npos) text += ".0";
  return text;
}

/// The origin of the byte at `at`; `run` moves forward with it.
Origin origin_at(const Text& text, size_t at, size_t& run) {
  while (text.runs()[run].end <= at) ++run;
  return text.runs()[run].origin;
}

Text string_repr(const Text& text) {
  const std::string& bytes = text.bytes();
  const char quote =
      bytes.find('\'') != std::string::npos && bytes.find('"') == std::string::npos ? '"' : '\'';
  const std::string_view quotes(&quote, 1);
  Text out;
  add(out, quotes);
  size_t run = 0;
  for (size_t at = 0; at < bytes.size();) {
    const CodePoint c = code_point_at(bytes, at);
    const Origin origin = origin_at(text, at, run);
    std::array<char, 12> escape{};
    if (c.value == '\n') {
      out.append("\\n", origin);
    } else if (c.value == '\r') {
      out.append("\\r", origin);
    } else if (c.value == '\t') {
      out.append("\\t", origin);
    } else if (c.value == '\\' || c.value == static_cast<char32_t>(quote)) {
      out.append("\\", origin);
      out.append(text, at, at + 1);
    } else if (!is_printable(c.value)) {
      const char* format = c.value < 0x100 ? "\\x%02x" : c.value < 0x10000 ? "\\u%04x" : "\\U%08x";
      std::snprintf(escape.data(), escape.size(), format, static_cast<unsigned>(c.value));
      out.append(escape.data(), origin);
    } else {
      out.append(text, at, at + c.bytes);
    }
    at += c.bytes;
  }
  add(out, quotes);
  return out;
}

Text json_string(const Text& text) {
  const std::string& bytes = text.bytes();
  Text out;
  add(out, "\"");
  size_t run = 0;
  for (size_t at = 0; at < bytes.size(); ++at) {
    const auto c = static_cast<unsigned char>(bytes[at]);
    // What follows the backslash, then the character, in pairs.
    constexpr std::string_view kNames = "b\bf\fn\nr\rt\t\"\"\\\\";
    const size_t name = kNames.rfind(static_cast<char>(c));
    const Origin origin = origin_at(text, at, run);
    std::array<char, 8> escape{};
    if (name != std::string_view::npos && name % 2 == 1) {
      out.append("\\", origin);
      out.append(kNames.substr(name - 1, 1), origin);
    } else if (c < 0x20) {
      std::snprintf(escape.data(), escape.size(), "\\u%04x", static_cast<unsigned>(c));
      out.append(escape.data(), origin);
    } else {
      out.append(text, at, at + 1);
    }
  }
  add(out, "\"");
  return out;
}

struct Json {
  Text out;
  int64_t indent = -1;
  bool sort_keys = false;

  void line(int64_t level) {
    if (indent < 0) return;
    add(out, "\n" + std::string(static_cast<size_t>(indent * level), ' '));
  }
  void separator(bool first, int64_t level) {
    if (!first) add(out, indent < 0 ? ", " : ",");
    line(level);
  }

  void list(const List& list, int64_t level) {
    add(out, "[");
    bool first = true;
    for (const Value& item : list.items) {
      separator(first, level + 1);
      first = false;
      value(item, level + 1);
    }
    if (!first) line(level);
    add(out, "]");
  }

  void dict(const Dict& dict, int64_t level) {
    auto items = dict.items;
    if (sort_keys) {
      std::stable_sort(items.begin(), items.end(),
                       [](const auto& a, const auto& b) { return less(a.first, b.first); });
    }
    add(out, "{");
    bool first = true;
    for (const auto& [key, item] : items) {
      separator(first, level + 1);
      first = false;
      if (const Text* text = key.as_text()) {
        out.append(json_string(*text));
      } else if (key.is_number() || key.is_none()) {
        add(out, "\"");
        value(key, level);
        add(out, "\"");
      } else {
        fail_with("JSON keys must be strings or numbers");
      }
      add(out, ": ");
      value(item, level + 1);
    }
    if (!first) line(level);
    add(out, "}");
  }

  void value(const Value& v, int64_t level) {
    if (v.is_none()) return add(out, "null");
    if (v.is<bool>()) return add(out, v.as<bool>() ? "true" : "false");
    if (v.is<double>() && !std::isfinite(v.as<double>())) {
      return add(out, std::isnan(v.as<double>()) ? "NaN"
                      : v.as<double>() < 0       ? "-Infinity"
                                                 : "Infinity");
    }
    if (v.is_number()) return out.append(to_text(v));
    if (const Text* text = v.as_text()) return out.append(json_string(*text));
    if (const List* items = v.as_list()) return list(*items, level);
    if (const Dict* items = v.as_dict()) return dict(*items, level);
    fail_with("cannot write " + v.type_name() + " as JSON");
  }
};

}  // namespace

Text to_text(const Value& value) {
  const Text* text = value.as_text();
  return text != nullptr ? *text : value.is_undefined() ? Text() : to_repr(value);
}

Text to_repr(const Value& value) {
  Text out;
  if (value.is_undefined()) {
    add(out, "Undefined");
  } else if (value.is_none()) {
    add(out, "None");
  } else if (value.is<bool>()) {
    add(out, value.as<bool>() ? "True" : "False");
  } else if (value.is<int64_t>()) {
    add(out, std::to_string(value.as<int64_t>()));
  } else if (value.is<double>()) {
    add(out, float_repr(value.as<double>()));
  } else if (const Text* text = value.as_text()) {
    return string_repr(*text);
  } else if (const List* list = value.as_list()) {
    add(out, list->tuple ? "(" : "[");
    for (size_t i = 0; i < list->items.size(); ++i) {
      if (i > 0) add(out, ", ");
      out.append(to_repr(list->items[i]));
    }
    add(out, !list->tuple ? "]" : list->items.size() == 1 ? ",)" : ")");
  } else if (const Dict* dict = value.as_dict()) {
    add(out, "{");
    for (size_t i = 0; i < dict->items.size(); ++i) {
      if (i > 0) add(out, ", ");
      out.append(to_repr(dict->items[i].first));
      add(out, ": ");
      out.append(to_repr(dict->items[i].second));
    }
    add(out, "}");
  } else {
    fail_with("cannot print a " + value.type_name());
  }
  return out;
}

Text to_json(const Value& value, int64_t indent, bool sort_keys) {
  Json json{Text(), std::min<int64_t>(indent, 16), sort_keys};
  json.value(value, 0);
  return json.out;
}

}  // namespace troupe::jinja
