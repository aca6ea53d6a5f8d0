#include "actors/text/jinja/interpreter.h"

#include <algorithm>
#include <array>

namespace troupe::jinja {
namespace {

constexpr std::array<std::string_view, 23> kTextMethods = {
    "strip",   "lstrip", "rstrip",  "split",        "rsplit",       "splitlines",
    "upper",   "lower",  "title",   "capitalize",   "startswith",   "endswith",
    "replace", "join",   "find",    "removeprefix", "removesuffix", "format",
    "isdigit", "count",  "isspace", "isupper",      "partition"};
constexpr std::array<std::string_view, 4> kDictMethods = {"get", "items", "keys", "values"};

template <class Names>
bool known(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Loop variables; `cycle` is a method.
Value loop_attribute(const Value& object, const Loop& loop, const std::string& name) {
  const auto& items = loop.items->items;
  const auto size = static_cast<int64_t>(items.size());
  const auto index = static_cast<int64_t>(loop.index0);
  if (name == "index") return Value::integer(index + 1);
  if (name == "index0") return Value::integer(index);
  if (name == "revindex") return Value::integer(size - index);
  if (name == "revindex0") return Value::integer(size - index - 1);
  if (name == "first") return Value::boolean(index == 0);
  if (name == "last") return Value::boolean(index + 1 == size);
  if (name == "length") return Value::integer(size);
  if (name == "previtem" && index > 0) return items[loop.index0 - 1];
  if (name == "nextitem" && index + 1 < size) return items[loop.index0 + 1];
  if (name == "cycle") return Value::method(name, object);
  return Value::undefined(name);
}

}  // namespace

Value Interpreter::attribute(const Value& object, const std::string& name) {
  if (object.is_undefined()) fail_with("'" + object.as<Undefined>().name + "' is undefined");
  if (const Loop* loop = object.as_loop()) return loop_attribute(object, *loop, name);
  if (const Dict* space = object.as_namespace()) {
    const Value* value = find(*space, name);
    return value != nullptr ? *value : Value::undefined(name);
  }
  if (const Dict* dict = object.as_dict()) {
    if (known(kDictMethods, name)) return Value::method(name, object);
    const Value* value = find(*dict, name);
    return value != nullptr ? *value : Value::undefined(name);
  }
  if (object.as_text() != nullptr && known(kTextMethods, name)) return Value::method(name, object);
  return Value::undefined(name);
}

Value Interpreter::subscript(const Value& object, const Value& index) {
  if (const Dict* dict = object.as_dict()) {
    budget_.charge_items(dict->items.size());
    const Value* value = find(*dict, index);
    if (value != nullptr) return *value;
  }
  int64_t at = 0;
  const Text* text = object.as_text();
  const List* list = object.as_list();
  if ((text != nullptr || list != nullptr) && index.as_integer(at)) {
    if (text != nullptr) budget_.charge_bytes(2 * text->size());
    const auto size =
        static_cast<int64_t>(list != nullptr ? list->items.size() : length(text->bytes()));
    if (at < 0) at += size;
    if (at < 0 || at >= size) return Value::undefined("list index");
    if (list != nullptr) return list->items[static_cast<size_t>(at)];
    size_t begin = 0;
    for (; at > 0; --at) begin += code_point_at(text->bytes(), begin).bytes;
    return Value::text(text->slice(begin, begin + code_point_at(text->bytes(), begin).bytes));
  }
  const Text* name = index.as_text();
  if (name != nullptr) return attribute(object, name->bytes());
  if (object.is_undefined()) fail_with("'" + object.as<Undefined>().name + "' is undefined");
  return Value::undefined("subscript");
}

}  // namespace troupe::jinja
