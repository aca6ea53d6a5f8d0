#include "actors/text/jinja/filters.h"

#include "actors/text/jinja/parser.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

namespace troupe::jinja {
namespace {

const Text& string_operand(const Value& value) {
  if (value.as_text() == nullptr)
    fail_with("the filter needs a string, not a " + value.type_name());
  return *value.as_text();
}

bool flag(const Arguments& arguments, size_t position, std::string_view name) {
  const Value* value = arguments.get(position, name);
  return value != nullptr && value->truth();
}

int64_t integer(const Arguments& arguments, size_t position, std::string_view name,
                int64_t otherwise) {
  const Value* value = arguments.get(position, name);
  int64_t out = otherwise;
  if (value != nullptr && !value->is_none() && !value->as_integer(out)) {
    fail_with("the argument '" + std::string(name) + "' must be an integer");
  }
  return out;
}

// Every filter: the operand, then what was written in parentheses.
using Filter = Value (*)(Interpreter& run, const Value& operand, const Arguments& arguments);

Value trim(Interpreter& run, const Value& operand, const Arguments& arguments) {
  const Text text = run.text_of(operand);
  const Value* chars = arguments.get(0, "chars");
  const bool given = chars != nullptr && !chars->is_none();
  const std::string set = given ? string_operand(*chars).bytes() : std::string();
  const size_t begin = strip_left(text.bytes(), given ? &set : nullptr);
  const size_t end = strip_right(text.bytes(), given ? &set : nullptr);
  return Value::text(text.slice(std::min(begin, end), end));
}

template <Case mode>
Value change(Interpreter& run, const Value& operand, const Arguments&) {
  return Value::text(change_case(run.text_of(operand), mode));
}

Value count(Interpreter& run, const Value& operand, const Arguments&) {
  if (const Text* text = operand.as_text()) {
    run.budget().charge_bytes(text->size());
    return Value::integer(static_cast<int64_t>(length(text->bytes())));
  }
  size_t n = 0;
  if (const List* list = operand.as_list()) {
    n = list->items.size();
  } else if (const Dict* dict = operand.as_dict()) {
    n = dict->items.size();
  } else if (!operand.is_undefined()) {
    fail_with("a " + operand.type_name() + " has no length");
  }
  return Value::integer(static_cast<int64_t>(n));
}

Value first(Interpreter& run, const Value& operand, const Arguments&) {
  const auto items = run.iterate(operand);
  return items.empty() ? Value::undefined("first item") : items.front();
}

Value last(Interpreter& run, const Value& operand, const Arguments&) {
  const auto items = run.iterate(operand);
  return items.empty() ? Value::undefined("last item") : items.back();
}

Value fallback(Interpreter&, const Value& operand, const Arguments& arguments) {
  const bool use = operand.is_undefined() || (flag(arguments, 1, "boolean") && !operand.truth());
  if (!use) return operand;
  const Value* value = arguments.get(0, "default_value");
  return value != nullptr ? *value : Value::text("");
}

Value substitute(Interpreter& run, const Value& operand, const Arguments& arguments) {
  const Text text = run.text_of(operand);
  const Text from = run.text_of(arguments.need(0, "old"));
  const Text to = run.text_of(arguments.need(1, "new"));
  const int64_t limit = integer(arguments, 2, "count", -1);
  // Each byte may become `to` and, in the worst case, a run of its own.
  const size_t hits = from.empty() ? text.size() + 1 : text.size() / from.size();
  run.budget().charge_bytes(text.size());
  if (from.empty() || text.bytes().find(from.bytes()) != std::string::npos) {
    run.budget().charge_product(static_cast<int64_t>(hits),
                                static_cast<int64_t>(1 + std::min<size_t>(to.size(), 1) * 16));
    int64_t found = from.empty() ? static_cast<int64_t>(hits) : 0;
    for (size_t at = 0; !from.empty(); ++found) {
      at = text.bytes().find(from.bytes(), at);
      if (at == std::string::npos) break;
      at += from.size();
    }
    run.budget().charge_product(limit < 0 ? found : std::min(found, limit),
                                static_cast<int64_t>(to.size() + 16 * to.runs().size()));
  }
  return Value::text(replace(text, from.bytes(), to, limit));
}

Value json(Interpreter& run, const Value& operand, const Arguments& arguments) {
  for (const auto& [name, value] : arguments.keywords) {
    const bool plain = name == "indent" || name == "ensure_ascii" || name == "sort_keys" ||
                       (name == "separators" && value.is_none());
    if (!plain || (name == "ensure_ascii" && value.truth())) {
      fail_with("tojson does not support '" + name + "'");
    }
  }
  if (arguments.positional.size() > 1) fail_with("tojson takes keyword arguments");
  // Jinja's own filter takes indent first, transformers' takes ensure_ascii first.
  if (!arguments.positional.empty() && arguments.positional[0].truth()) {
    fail_with("tojson does not support 'ensure_ascii'");
  }
  run.budget().charge_product(operand.weight(), 64);  // escapes and indentation
  return Value::text(
      to_json(operand, integer(arguments, 1, "indent", -1), flag(arguments, 3, "sort_keys")));
}

Value string(Interpreter& run, const Value& operand, const Arguments&) {
  return Value::text(run.text_of(operand));
}

Value to_integer(Interpreter&, const Value& operand, const Arguments& arguments) {
  const Value otherwise = Value::integer(integer(arguments, 0, "default", 0));
  int64_t value = 0;
  if (operand.as_integer(value)) return Value::integer(value);
  if (operand.is<double>()) {
    const double d = operand.as_double();
    return std::fabs(d) < 9e18 ? Value::integer(static_cast<int64_t>(d)) : otherwise;
  }
  const Text* text = operand.as_text();
  if (text == nullptr) return otherwise;
  std::string_view digits = text->bytes();
  digits = digits.substr(strip_left(digits, nullptr));
  digits = digits.substr(0, strip_right(digits, nullptr));
  if (digits.starts_with('+')) digits.remove_prefix(1);
  const auto* end = digits.data() + digits.size();
  if (std::from_chars(digits.data(), end, value).ptr == end && !digits.empty()) {
    return Value::integer(value);
  }
  double number = 0;
  const bool whole = std::from_chars(digits.data(), end, number).ptr == end && !digits.empty();
  return whole && std::fabs(number) < 9e18 ? Value::integer(static_cast<int64_t>(number))
                                           : otherwise;
}

Value to_float(Interpreter&, const Value& operand, const Arguments& arguments) {
  const Value* given = arguments.get(0, "default");
  const Value otherwise = given != nullptr ? *given : Value::number(0.0);
  if (operand.is_number()) return Value::number(operand.as_double());
  const Text* text = operand.as_text();
  if (text == nullptr) return otherwise;
  std::string_view digits = text->bytes();
  digits = digits.substr(strip_left(digits, nullptr));
  digits = digits.substr(0, strip_right(digits, nullptr));
  if (digits.starts_with('+')) digits.remove_prefix(1);
  double number = 0;
  const auto* end = digits.data() + digits.size();
  const auto read = std::from_chars(digits.data(), end, number);
  return read.ec == std::errc() && read.ptr == end && !digits.empty() ? Value::number(number)
                                                                      : otherwise;
}

Value absolute(Interpreter&, const Value& operand, const Arguments&) {
  int64_t value = 0;
  if (operand.is<double>()) return Value::number(std::fabs(operand.as_double()));
  if (!operand.as_integer(value) || value == INT64_MIN) fail_with("abs needs a number");
  return Value::integer(value < 0 ? -value : value);
}

Value round_number(Interpreter&, const Value& operand, const Arguments& arguments) {
  const int64_t places = integer(arguments, 0, "precision", 0);
  if (!operand.is_number() || places < 0 || places > 15) fail_with("round does not take this");
  const Value* method = arguments.get(1, "method");
  const std::string how = method != nullptr ? string_operand(*method).bytes() : "common";
  const double value = operand.as_double();
  if (how == "common") {
    // Correctly rounded decimal digits, ties of the exact binary value to even, as Python does.
    std::array<char, 400> buffer{};
    const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                   std::chars_format::fixed, static_cast<int>(places));
    double rounded = 0;
    std::from_chars(buffer.data(), end.ptr, rounded);
    if (operand.is<double>()) return Value::number(rounded);
    return operand;
  }
  if (how != "ceil" && how != "floor") fail_with("round knows common, ceil and floor");
  const double scale = std::pow(10.0, static_cast<double>(places));
  return Value::number((how == "ceil" ? std::ceil(value * scale) : std::floor(value * scale)) /
                       scale);
}

/// Every line behind the first is moved right; blank ones only when asked.
Value indent(Interpreter& run, const Value& operand, const Arguments& arguments) {
  const Text text = run.text_of(operand);
  const Value* width = arguments.get(0, "width");
  int64_t columns = 4;
  Text margin;
  if (width != nullptr && width->as_text() != nullptr) {
    margin = *width->as_text();
  } else {
    columns = integer(arguments, 0, "width", 4);
    if (columns < 0 || columns > 1000) fail_with("indent does not take this width");
    margin = Text(std::string(static_cast<size_t>(columns), ' '), Origin::kTemplate);
  }
  const std::string& bytes = text.bytes();
  const auto lines = std::count(bytes.begin(), bytes.end(), '\n') + 1;
  run.budget().charge_product(lines, static_cast<int64_t>(margin.size() + 32));
  Text out;
  if (flag(arguments, 1, "first")) out.append(margin);
  for (size_t at = 0; at < bytes.size();) {
    const size_t newline = std::min(bytes.find('\n', at), bytes.size());
    if (at > 0 && (newline > at || flag(arguments, 2, "blank"))) out.append(margin);
    const size_t next = std::min(newline + 1, bytes.size());
    out.append(text, at, next);
    at = next;
  }
  if (bytes.ends_with('\n') && flag(arguments, 2, "blank")) out.append(margin);
  return Value::text(std::move(out));
}

Value same(Interpreter&, const Value& operand, const Arguments&) { return operand; }

/// HTML escapes, for templates that use it on plain text.
Value escape(Interpreter& run, const Value& operand, const Arguments&) {
  Text text = run.text_of(operand);
  run.budget().charge_product(static_cast<int64_t>(text.size()), 24);
  constexpr std::array<std::pair<std::string_view, std::string_view>, 5> kEscapes = {
      {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"'", "&#39;"}, {"\"", "&#34;"}}};
  for (const auto& [from, to] : kEscapes) {
    text = replace(text, from, Text(to, Origin::kTemplate), -1);
  }
  return Value::text(std::move(text));
}

constexpr std::array<std::pair<std::string_view, Filter>, 23> kFilters = {{
    {"trim", trim},
    {"upper", change<Case::kUpper>},
    {"lower", change<Case::kLower>},
    {"title", change<Case::kTitle>},
    {"capitalize", change<Case::kCapitalize>},
    {"length", count},
    {"count", count},
    {"first", first},
    {"last", last},
    {"default", fallback},
    {"d", fallback},
    {"replace", substitute},
    {"tojson", json},
    {"string", string},
    {"int", to_integer},
    {"float", to_float},
    {"abs", absolute},
    {"round", round_number},
    {"indent", indent},
    {"safe", same},
    {"escape", escape},
    {"e", escape},
    {"forceescape", escape},
}};

Filter find_filter(std::string_view name) {
  for (const auto& [known, filter] : kFilters) {
    if (known == name) return filter;
  }
  return nullptr;
}

}  // namespace

bool is_known_filter(std::string_view name) {
  return find_filter(name) != nullptr || is_list_filter(name);
}

Value Interpreter::apply_filter(const std::string& name, const Value& operand,
                                const Arguments& arguments) {
  const Filter filter = find_filter(name);
  return filter != nullptr ? filter(*this, operand, arguments)
                           : apply_list_filter(*this, name, operand, arguments);
}

}  // namespace troupe::jinja
