#include "actors/text/jinja/interpreter.h"

#include <algorithm>

namespace troupe::jinja {
namespace {

const Text& text_argument(const Arguments& arguments, size_t position, std::string_view name) {
  const Text* text = arguments.need(position, name).as_text();
  if (text == nullptr) fail_with("the argument '" + std::string(name) + "' must be a string");
  return *text;
}

int64_t integer_argument(const Arguments& arguments, size_t position, std::string_view name,
                         int64_t otherwise) {
  const Value* value = arguments.get(position, name);
  int64_t out = otherwise;
  if (value != nullptr && !value->as_integer(out)) {
    fail_with("the argument '" + std::string(name) + "' must be an integer");
  }
  return out;
}

Text strip(const Text& text, const Arguments& arguments, bool left, bool right) {
  const Value* given = arguments.get(0, "chars");
  std::string set;
  const bool has_set = given != nullptr && !given->is_none();
  if (has_set) set = text_argument(arguments, 0, "chars").bytes();
  const std::string* characters = has_set ? &set : nullptr;
  const size_t begin = left ? strip_left(text.bytes(), characters) : 0;
  const size_t end = right ? strip_right(text.bytes(), characters) : text.size();
  return text.slice(std::min(begin, end), end);
}

/// str.split() without a separator: words between white space.
std::vector<Value> words(const Text& text, int64_t limit) {
  std::vector<Value> out;
  const std::string_view bytes = text.bytes();
  size_t at = strip_left(bytes, nullptr);
  while (at < bytes.size()) {
    size_t end = at;
    if (limit >= 0 && static_cast<int64_t>(out.size()) == limit) {
      end = strip_right(bytes, nullptr);
      out.push_back(Value::text(text.slice(at, end)));
      break;
    }
    while (end < bytes.size()) {
      const CodePoint c = code_point_at(bytes, end);
      if (is_space(c.value)) break;
      end += c.bytes;
    }
    out.push_back(Value::text(text.slice(at, end)));
    at = end + strip_left(bytes.substr(end), nullptr);
  }
  return out;
}

std::vector<Value> split(const Text& text, const std::string& separator, int64_t limit,
                         bool from_right) {
  if (separator.empty()) fail_with("the separator is empty");
  std::vector<Value> out;
  const std::string& bytes = text.bytes();
  const auto full = [&] { return limit >= 0 && static_cast<int64_t>(out.size()) == limit; };
  if (!from_right) {
    size_t at = 0;
    for (size_t hit = bytes.find(separator); hit != std::string::npos && !full();
         hit = bytes.find(separator, at)) {
      out.push_back(Value::text(text.slice(at, hit)));
      at = hit + separator.size();
    }
    out.push_back(Value::text(text.slice(at, bytes.size())));
    return out;
  }
  size_t end = bytes.size();
  while (!full() && end >= separator.size()) {
    const size_t hit = bytes.rfind(separator, end - separator.size());
    if (hit == std::string::npos) break;
    out.push_back(Value::text(text.slice(hit + separator.size(), end)));
    end = hit;
  }
  out.push_back(Value::text(text.slice(0, end)));
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<Value> lines(const Text& text) {
  std::vector<Value> out;
  const std::string& bytes = text.bytes();
  for (size_t at = 0; at < bytes.size();) {
    const size_t end = std::min(bytes.find_first_of("\r\n", at), bytes.size());
    out.push_back(Value::text(text.slice(at, end)));
    at = end + (bytes.compare(end, 2, "\r\n") == 0 ? 2 : 1);
  }
  return out;
}

bool starts_or_ends(const Text& text, const Value& with, bool start) {
  if (const List* list = with.as_list()) {
    return std::any_of(list->items.begin(), list->items.end(),
                       [&](const Value& item) { return starts_or_ends(text, item, start); });
  }
  const Text* part = with.as_text();
  if (part == nullptr) fail_with("startswith and endswith need a string");
  return start ? std::string_view(text.bytes()).starts_with(part->bytes())
               : std::string_view(text.bytes()).ends_with(part->bytes());
}

bool all_characters(const Text& text, bool (*is)(char32_t)) {
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text.bytes(), at);
    if (!is(c.value)) return false;
    at += c.bytes;
  }
  return !text.empty();
}

Value call_dict(const Dict& dict, const std::string& name, const Arguments& arguments) {
  if (name == "get") {
    const Value* value = find(dict, arguments.need(0, "key"));
    const Value* otherwise = arguments.get(1, "default");
    if (value != nullptr) return *value;
    return otherwise != nullptr ? *otherwise : Value::none();
  }
  std::vector<Value> out;
  for (const auto& [key, value] : dict.items) {
    out.push_back(name == "keys"     ? key
                  : name == "values" ? value
                                     : Value::list({key, value}, true));
  }
  return Value::list(std::move(out));
}

/// "{} {0} {name}".format(...): no conversions, no format specifications.
Text format(const Text& text, const Arguments& arguments, Interpreter& interpreter) {
  Text out;
  const std::string& bytes = text.bytes();
  size_t automatic = 0;
  for (size_t at = 0; at < bytes.size();) {
    const size_t brace = std::min(bytes.find_first_of("{}", at), bytes.size());
    out.append(text, at, brace);
    if (brace == bytes.size()) break;
    if (brace + 1 < bytes.size() && bytes[brace + 1] == bytes[brace]) {
      out.append(text, brace, brace + 1);
      at = brace + 2;
      continue;
    }
    const size_t close = bytes.find('}', brace);
    if (bytes[brace] == '}' || close == std::string::npos) fail_with("a format has a lone brace");
    const std::string field = bytes.substr(brace + 1, close - brace - 1);
    const bool digits = field.find_first_not_of("0123456789") == std::string::npos;
    if (field.find_first_of("!:.[") != std::string::npos || (digits && field.size() > 4)) {
      fail_with("this format is not supported");
    }
    const size_t position = !digits ? SIZE_MAX : field.empty() ? automatic++ : std::stoul(field);
    out.append(interpreter.text_of(arguments.need(position, field)));
    at = close + 1;
  }
  return out;
}

}  // namespace

Value Interpreter::call_method(const Value& self, const std::string& name,
                               const Arguments& arguments) {
  if (const Dict* dict = self.as_dict()) {
    budget_.charge_items(4 * dict->items.size());
    return call_dict(*dict, name, arguments);
  }
  if (const Loop* loop = self.as_loop()) {
    const auto& choices = arguments.positional;
    if (choices.empty()) fail_with("loop.cycle needs arguments");
    return choices[loop->index0 % choices.size()];
  }
  const Text& text = *self.as_text();
  budget_.charge_bytes(2 * text.size());
  if (name == "strip") return Value::text(strip(text, arguments, true, true));
  if (name == "lstrip") return Value::text(strip(text, arguments, true, false));
  if (name == "rstrip") return Value::text(strip(text, arguments, false, true));
  if (name == "upper") return Value::text(change_case(text, Case::kUpper));
  if (name == "lower") return Value::text(change_case(text, Case::kLower));
  if (name == "title") return Value::text(change_case(text, Case::kTitle));
  if (name == "capitalize") return Value::text(change_case(text, Case::kCapitalize));
  if (name == "isspace") return Value::boolean(all_characters(text, is_space));
  if (name == "isdigit") {
    return Value::boolean(all_characters(text, [](char32_t c) { return c >= '0' && c <= '9'; }));
  }
  if (name == "isupper") {
    return Value::boolean(change_case(text, Case::kUpper).bytes() == text.bytes() &&
                          change_case(text, Case::kLower).bytes() != text.bytes());
  }
  if (name == "startswith" || name == "endswith") {
    return Value::boolean(starts_or_ends(text, arguments.need(0, "prefix"), name[0] == 's'));
  }
  if (name == "splitlines") {
    budget_.charge_product(static_cast<int64_t>(text.size()), 4 * Budget::kItem);
    return Value::list(lines(text));
  }
  if (name == "split" || name == "rsplit") {
    budget_.charge_product(static_cast<int64_t>(text.size()), 4 * Budget::kItem);
    const Value* separator = arguments.get(0, "sep");
    const int64_t limit = integer_argument(arguments, 1, "maxsplit", -1);
    const bool blank = separator == nullptr || separator->is_none();
    if (blank && name == "rsplit" && limit >= 0) fail_with("rsplit needs a separator");
    if (blank) return Value::list(words(text, limit));
    return Value::list(
        split(text, text_argument(arguments, 0, "sep").bytes(), limit, name == "rsplit"));
  }
  if (name == "replace") {
    return apply_filter("replace", self, arguments);
  }
  if (name == "join") return apply_filter("join", arguments.need(0, "iterable"), {{self}, {}});
  if (name == "format") return Value::text(format(text, arguments, *this));

  const Text& part = text_argument(arguments, 0, "sub");
  const size_t hit = text.bytes().find(part.bytes());
  if (name == "find") {
    return Value::integer(
        hit == std::string::npos ? -1 : static_cast<int64_t>(length(text.bytes().substr(0, hit))));
  }
  if (name == "count") {
    if (part.empty()) return Value::integer(static_cast<int64_t>(length(text.bytes())) + 1);
    int64_t n = 0;
    for (size_t at = hit; at != std::string::npos; at = text.bytes().find(part.bytes(), at)) {
      at += part.size();
      ++n;
    }
    return Value::integer(n);
  }
  if (name == "partition") {
    if (part.empty()) fail_with("the separator is empty");
    const size_t end = hit == std::string::npos ? text.size() : hit;
    const size_t rest = hit == std::string::npos ? text.size() : hit + part.size();
    return Value::list({Value::text(text.slice(0, end)), Value::text(text.slice(end, rest)),
                        Value::text(text.slice(rest, text.size()))},
                       true);
  }
  const bool prefix = name == "removeprefix";
  if (!starts_or_ends(text, arguments.need(0, "sub"), prefix)) return self;
  return Value::text(prefix ? text.slice(part.size(), text.size())
                            : text.slice(0, text.size() - part.size()));
}

}  // namespace troupe::jinja
