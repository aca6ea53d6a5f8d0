#include "actors/text/jinja/filters.h"

#include <algorithm>
#include <array>

namespace troupe::jinja {
namespace {

constexpr std::array<std::string_view, 15> kNames = {
    "join",     "list",   "map",     "selectattr", "rejectattr", "select", "reject", "items",
    "dictsort", "unique", "reverse", "sort",       "min",        "max",    "sum"};

bool flag(const Arguments& arguments, size_t position, std::string_view name) {
  const Value* value = arguments.get(position, name);
  return value != nullptr && value->truth();
}

const std::string& name_argument(const Value& value) {
  if (value.as_text() == nullptr) fail_with("a name must be a string");
  return value.as_text()->bytes();
}

/// "a.b.0" of an item, as map(attribute=...) and selectattr(...) take it.
Value path(Interpreter& run, const Value& item, const Value& attribute) {
  if (attribute.as_text() == nullptr) return run.subscript(item, attribute);
  Value value = item;
  const std::string& name = attribute.as_text()->bytes();
  for (size_t at = 0; at <= name.size();) {
    const size_t dot = std::min(name.find('.', at), name.size());
    const std::string part = name.substr(at, dot - at);
    const bool digits = !part.empty() && part.size() < 10 &&
                        part.find_first_not_of("0123456789") == std::string::npos;
    value = run.subscript(value, digits ? Value::integer(std::stol(part)) : Value::text(part));
    at = dot + 1;
  }
  return value;
}

Value join(Interpreter& run, const Value& operand, const Arguments& arguments) {
  const Value* separator = arguments.get(0, "d");
  const Text between = separator == nullptr ? Text() : run.text_of(*separator);
  const Value* attribute = arguments.get(1, "attribute");
  Text out;
  bool first = true;
  for (const Value& item : run.iterate(operand)) {
    run.budget().charge_bytes(between.size());
    if (!first) out.append(between);
    first = false;
    out.append(run.text_of(attribute == nullptr ? item : path(run, item, *attribute)));
  }
  return Value::text(std::move(out));
}

Arguments from(const Arguments& arguments, size_t begin) {
  Arguments rest;
  rest.keywords = arguments.keywords;
  for (size_t i = begin; i < arguments.positional.size(); ++i) {
    rest.positional.push_back(arguments.positional[i]);
  }
  return rest;
}

Value map(Interpreter& run, const Value& operand, const Arguments& arguments) {
  std::vector<Value> out;
  const bool by_attribute = arguments.positional.empty();
  for (const Value& item : run.iterate(operand)) {
    if (by_attribute) {
      Value value = path(run, item, arguments.need(0, "attribute"));
      const Value* otherwise = arguments.get(1, "default");
      if (value.is_undefined() && otherwise != nullptr) value = *otherwise;
      out.push_back(std::move(value));
      continue;
    }
    const std::string& filter = name_argument(arguments.positional[0]);
    if (filter == "map") fail_with("map does not map itself");  // unbounded recursion otherwise
    out.push_back(run.apply_filter(filter, item, from(arguments, 1)));
  }
  return Value::list(std::move(out));
}

/// select, reject, selectattr, rejectattr.
Value choose(Interpreter& run, const Value& operand, const Arguments& arguments, bool keep,
             bool by_attribute) {
  const size_t at = by_attribute ? 1 : 0;
  std::vector<Value> out;
  for (const Value& item : run.iterate(operand)) {
    const Value value = by_attribute ? path(run, item, arguments.need(0, "attribute")) : item;
    const bool holds = arguments.positional.size() <= at
                           ? value.truth()
                           : run.apply_test(name_argument(arguments.positional[at]), value,
                                            from(arguments, at + 1));
    if (holds == keep) out.push_back(item);
  }
  return Value::list(std::move(out));
}

Value items(Interpreter& run, const Value& operand) {
  if (operand.is_undefined()) return Value::list({});
  if (operand.as_dict() == nullptr) fail_with("items needs a dict");
  return run.call_method(operand, "items", {});
}

/// What sorting and comparing look at: strings without their case unless asked.
struct Keyed {
  Value key;
  Value item;
};

std::vector<Keyed> keyed(Interpreter& run, const std::vector<Value>& all, const Value* attribute,
                         bool case_sensitive) {
  std::vector<Keyed> out;
  for (const Value& item : all) {
    Value key = attribute == nullptr || attribute->is_none() ? item : path(run, item, *attribute);
    run.budget().charge(key.weight());
    if (!case_sensitive && key.as_text() != nullptr) {
      key = Value::text(change_case(*key.as_text(), Case::kLower));
    }
    out.push_back({std::move(key), item});
  }
  return out;
}

void sort(Interpreter& run, std::vector<Keyed>& all, bool backwards) {
  std::stable_sort(all.begin(), all.end(), [&](const Keyed& a, const Keyed& b) {
    run.budget().charge(Budget::kItem + std::min(a.key.weight(), b.key.weight()));
    return backwards ? less(b.key, a.key) : less(a.key, b.key);
  });
}

Value sorted(Interpreter& run, const Value& operand, const Arguments& arguments) {
  auto all = keyed(run, run.iterate(operand), arguments.get(2, "attribute"),
                   flag(arguments, 1, "case_sensitive"));
  sort(run, all, flag(arguments, 0, "reverse"));
  std::vector<Value> out;
  out.reserve(all.size());
  for (Keyed& each : all) out.push_back(std::move(each.item));
  return Value::list(std::move(out));
}

Value dictsort(Interpreter& run, const Value& operand, const Arguments& arguments) {
  const Value* by = arguments.get(1, "by");
  const bool by_value = by != nullptr && name_argument(*by) == "value";
  const Value pairs = items(run, operand);
  const Value index = Value::integer(by_value ? 1 : 0);
  auto all = keyed(run, pairs.as_list()->items, &index, flag(arguments, 0, "case_sensitive"));
  sort(run, all, flag(arguments, 2, "reverse"));
  std::vector<Value> out;
  out.reserve(all.size());
  for (Keyed& each : all) out.push_back(std::move(each.item));
  return Value::list(std::move(out));
}

Value unique(Interpreter& run, const Value& operand, const Arguments& arguments) {
  std::vector<Value> seen;
  std::vector<Value> out;
  for (Keyed& each : keyed(run, run.iterate(operand), arguments.get(1, "attribute"),
                           flag(arguments, 0, "case_sensitive"))) {
    const bool known = std::any_of(seen.begin(), seen.end(),
                                   [&](const Value& old) { return run.equals(old, each.key); });
    if (known) continue;
    seen.push_back(std::move(each.key));
    out.push_back(std::move(each.item));
  }
  return Value::list(std::move(out));
}

Value extreme(Interpreter& run, const Value& operand, const Arguments& arguments, bool greatest) {
  const auto all = keyed(run, run.iterate(operand), arguments.get(1, "attribute"),
                         flag(arguments, 0, "case_sensitive"));
  if (all.empty()) return Value::undefined("item of an empty list");
  const Keyed* best = &all.front();
  for (const Keyed& each : all) {
    if (greatest ? less(best->key, each.key) : less(each.key, best->key)) best = &each;
  }
  return best->item;
}

Value reverse(Interpreter& run, const Value& operand) {
  std::vector<Value> all = run.iterate(operand);
  std::reverse(all.begin(), all.end());
  if (operand.as_text() == nullptr) return Value::list(std::move(all));
  Text out;
  for (const Value& character : all) out.append(*character.as_text());
  return Value::text(std::move(out));
}

Value sum(Interpreter& run, const Value& operand, const Arguments& arguments) {
  const Value* attribute = arguments.get(0, "attribute");
  const Value* start = arguments.get(1, "start");
  Value total = start == nullptr ? Value::integer(0) : *start;
  for (const Value& item : run.iterate(operand)) {
    const bool whole = attribute == nullptr || attribute->is_none();
    total = run.binary("+", total, whole ? item : path(run, item, *attribute));
  }
  return total;
}

}  // namespace

bool is_list_filter(std::string_view name) {
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

Value apply_list_filter(Interpreter& run, const std::string& name, const Value& operand,
                        const Arguments& arguments) {
  if (name == "join") return join(run, operand, arguments);
  if (name == "list") return Value::list(run.iterate(operand));
  if (name == "map") return map(run, operand, arguments);
  if (name == "select") return choose(run, operand, arguments, true, false);
  if (name == "reject") return choose(run, operand, arguments, false, false);
  if (name == "selectattr") return choose(run, operand, arguments, true, true);
  if (name == "rejectattr") return choose(run, operand, arguments, false, true);
  if (name == "items") return items(run, operand);
  if (name == "dictsort") return dictsort(run, operand, arguments);
  if (name == "unique") return unique(run, operand, arguments);
  if (name == "reverse") return reverse(run, operand);
  if (name == "sort") return sorted(run, operand, arguments);
  if (name == "min") return extreme(run, operand, arguments, false);
  if (name == "max") return extreme(run, operand, arguments, true);
  if (name == "sum") return sum(run, operand, arguments);
  fail_with("the filter '" + name + "' is not supported");
}

}  // namespace troupe::jinja
