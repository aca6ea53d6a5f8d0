#include "actors/text/jinja/value.h"

#include <algorithm>

namespace troupe::jinja {
namespace {

int32_t nest(const Value& value, int32_t deepest) {
  if (value.as_namespace() != nullptr) fail_with("a namespace cannot be part of another value");
  const int32_t depth = std::max(deepest, value.depth() + 1);
  if (depth > kMaxValueDepth) fail_with("lists and dicts are nested too deep");
  return depth;
}

int64_t add_weight(int64_t sum, const Value& value) {
  constexpr int64_t kEnough = int64_t{1} << 50U;
  return std::min(kEnough, sum + value.weight());
}

template <class T>
const T* target(const Value::Data& data) {
  const auto* held = std::get_if<std::shared_ptr<const T>>(&data);
  return held == nullptr ? nullptr : held->get();
}

}  // namespace

Value Value::list(std::vector<Value> items, bool tuple) {
  auto list = std::make_shared<List>();
  for (const Value& item : items) {
    list->depth = nest(item, list->depth);
    list->weight = add_weight(list->weight, item);
  }
  list->items = std::move(items);
  list->tuple = tuple;
  return Value(std::shared_ptr<const List>(std::move(list)));
}

Value Value::dict(std::vector<std::pair<Value, Value>> items, bool is_namespace) {
  auto dict = std::make_shared<Dict>();
  if (items.size() > kMaxDictItems) fail_with("a dict has too many keys");
  for (const auto& [key, value] : items) {
    dict->depth = nest(value, nest(key, dict->depth));
    dict->weight = add_weight(add_weight(dict->weight, key), value);
  }
  dict->items = std::move(items);
  dict->is_namespace = is_namespace;
  return Value(std::move(dict));
}

Value Value::callable(std::string name, const Macro* macro) {
  return Value(std::make_shared<const Callable>(Callable{std::move(name), nullptr, macro}));
}

Value Value::method(std::string name, Value self) {
  nest(self, 1);
  return Value(std::make_shared<const Callable>(
      Callable{std::move(name), std::make_shared<const Value>(std::move(self)), nullptr}));
}

const Text* Value::as_text() const { return target<Text>(data_); }
const List* Value::as_list() const { return target<List>(data_); }
const Loop* Value::as_loop() const { return target<Loop>(data_); }
const Callable* Value::as_callable() const { return target<Callable>(data_); }

const Dict* Value::as_dict() const {
  const auto* held = std::get_if<std::shared_ptr<Dict>>(&data_);
  return held == nullptr || (*held)->is_namespace ? nullptr : held->get();
}

Dict* Value::as_namespace() const {
  const auto* held = std::get_if<std::shared_ptr<Dict>>(&data_);
  return held == nullptr || !(*held)->is_namespace ? nullptr : held->get();
}

bool Value::as_integer(int64_t& out) const {
  if (is<bool>()) {
    out = as<bool>() ? 1 : 0;
  } else if (is<int64_t>()) {
    out = as<int64_t>();
  } else {
    return false;
  }
  return true;
}

double Value::as_double() const {
  int64_t i = 0;
  return as_integer(i) ? static_cast<double>(i) : as<double>();
}

bool Value::truth() const {
  if (is_undefined() || is_none()) return false;
  if (is_number()) return as_double() != 0;
  if (const Text* text = as_text()) return !text->empty();
  if (const List* list = as_list()) return !list->items.empty();
  if (const Dict* dict = as_dict()) return !dict->items.empty();
  return true;
}

int32_t Value::depth() const {
  if (const List* list = as_list()) return list->depth;
  if (const Dict* dict = as_dict()) return dict->depth;
  if (const Loop* loop = as_loop()) return loop->items->depth + 1;
  if (const Callable* callable = as_callable()) {
    return callable->self ? callable->self->depth() + 1 : 0;
  }
  return 0;
}

int64_t Value::weight() const {
  if (const Text* text = as_text()) return static_cast<int64_t>(text->size()) + 1;
  if (const List* list = as_list()) return list->weight;
  if (const Dict* dict = as_dict()) return dict->weight;
  return 1;  // the rest prints short and has no equality
}

std::string Value::type_name() const {
  if (is_undefined()) return "undefined value '" + as<Undefined>().name + "'";
  if (is_none()) return "none";
  if (is<bool>()) return "boolean";
  if (is<int64_t>()) return "integer";
  if (is<double>()) return "float";
  if (as_text() != nullptr) return "string";
  if (const List* list = as_list()) return list->tuple ? "tuple" : "list";
  if (as_dict() != nullptr) return "dict";
  if (as_namespace() != nullptr) return "namespace";
  return as_loop() != nullptr ? "loop" : "function";
}

const Value* find(const Dict& dict, std::string_view key) {
  for (const auto& [name, value] : dict.items) {
    const Text* text = name.as_text();
    if (text != nullptr && text->bytes() == key) return &value;
  }
  return nullptr;
}

const Value* find(const Dict& dict, const Value& key) {
  if (const Text* text = key.as_text()) return find(dict, text->bytes());
  for (const auto& [name, value] : dict.items) {
    if (equal(name, key)) return &value;
  }
  return nullptr;
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    int64_t i = 0;
    int64_t j = 0;
    if (a.as_integer(i) && b.as_integer(j)) return i == j;
    return a.as_double() == b.as_double();
  }
  if (a.data().index() != b.data().index()) return false;
  if (a.is_undefined() || a.is_none()) return true;
  if (const Text* text = a.as_text()) return text->bytes() == b.as_text()->bytes();
  if (const List* list = a.as_list()) {
    const List* other = b.as_list();
    return list == other || (list->tuple == other->tuple &&
                             std::equal(list->items.begin(), list->items.end(),
                                        other->items.begin(), other->items.end(), equal));
  }
  const Dict* dict = a.as_dict();
  const Dict* other = b.as_dict();
  if (dict == nullptr || other == nullptr) return false;  // namespaces, functions: no equality
  if (dict == other) return true;
  if (dict->items.size() != other->items.size()) return false;
  return std::all_of(dict->items.begin(), dict->items.end(), [&](const auto& item) {
    const Value* value = find(*other, item.first);
    return value != nullptr && equal(item.second, *value);
  });
}

bool less(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    int64_t i = 0;
    int64_t j = 0;
    if (a.as_integer(i) && b.as_integer(j)) return i < j;
    return a.as_double() < b.as_double();
  }
  if (a.as_text() != nullptr && b.as_text() != nullptr) {
    return a.as_text()->bytes() < b.as_text()->bytes();  // UTF-8 sorts as its code points do
  }
  const List* list = a.as_list();
  const List* other = b.as_list();
  if (list != nullptr && other != nullptr && list->tuple == other->tuple) {
    for (size_t i = 0; i < list->items.size() && i < other->items.size(); ++i) {
      if (!equal(list->items[i], other->items[i])) return less(list->items[i], other->items[i]);
    }
    return list->items.size() < other->items.size();
  }
  fail_with("cannot order " + a.type_name() + " and " + b.type_name());
}

}  // namespace troupe::jinja
