#include "actors/text/jinja/interpreter.h"

#include <algorithm>
#include <cmath>

namespace troupe::jinja {
namespace {

[[noreturn]] void mismatch(const std::string& op, const Value& left, const Value& right) {
  for (const Value* side : {&left, &right}) {
    if (side->is_undefined()) fail_with("'" + side->as<Undefined>().name + "' is undefined");
  }
  fail_with("'" + op + "' does not work with " + left.type_name() + " and " + right.type_name());
}

int64_t checked(bool overflow, int64_t value) {
  if (overflow) fail_with("a number is too large");
  return value;
}

int64_t floor_divide(int64_t a, int64_t b) {
  if (b == 0) fail_with("division by zero");
  int64_t negated = 0;
  if (b == -1) {
    const bool overflow = __builtin_sub_overflow(int64_t{0}, a, &negated);
    return checked(overflow, negated);
  }
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

Value power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    return Value::number(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  if (base == 0 || base == 1) return Value::integer(exponent == 0 ? 1 : base);
  if (base == -1) return Value::integer(exponent % 2 == 0 ? 1 : -1);
  for (; exponent > 0; --exponent) {  // overflows after 63 rounds at most
    int64_t next = 0;
    const bool overflow = __builtin_mul_overflow(result, base, &next);
    result = checked(overflow, next);
  }
  return Value::integer(result);
}

Value integers(const std::string& op, int64_t a, int64_t b) {
  int64_t out = 0;
  bool overflow = false;
  if (op == "+") overflow = __builtin_add_overflow(a, b, &out);
  if (op == "-") overflow = __builtin_sub_overflow(a, b, &out);
  if (op == "*") overflow = __builtin_mul_overflow(a, b, &out);
  if (op == "+" || op == "-" || op == "*") return Value::integer(checked(overflow, out));
  if (op == "//") return Value::integer(floor_divide(a, b));
  if (op == "**") return power(a, b);
  if (b == 0) fail_with("division by zero");
  if (op == "/") return Value::number(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) return Value::integer(0);
  const int64_t rest = a % b;  // %: the sign of the divisor, as in Python
  return Value::integer(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
}

Value doubles(const std::string& op, double a, double b) {
  if (op == "+") return Value::number(a + b);
  if (op == "-") return Value::number(a - b);
  if (op == "*") return Value::number(a * b);
  if (op == "**") return Value::number(std::pow(a, b));
  if (b == 0) fail_with("division by zero");
  if (op == "/") return Value::number(a / b);
  if (op == "//") return Value::number(std::floor(a / b));
  return Value::number(a - b * std::floor(a / b));
}

/// Python's slice.indices(): where a slice of `size` items starts and stops.
int64_t bound(const Value& value, int64_t size, int64_t otherwise, bool forward) {
  int64_t at = 0;
  if (value.is_none()) return otherwise;
  if (!value.as_integer(at)) fail_with("a slice needs integers");
  if (at < 0) return std::max<int64_t>(at + size, forward ? 0 : -1);
  return std::min(at, forward ? size : size - 1);
}

}  // namespace

Text Interpreter::text_of(const Value& value) {
  budget_.charge(value.weight());
  return to_text(value);
}

bool Interpreter::equals(const Value& a, const Value& b) {
  budget_.charge(std::min(a.weight(), b.weight()));
  return equal(a, b);
}

bool Interpreter::contains(const Value& container, const Value& item) {
  if (const Text* text = container.as_text()) {
    const Text* part = item.as_text();
    if (part == nullptr) mismatch("in", item, container);
    budget_.charge_bytes(text->size());
    return text->bytes().find(part->bytes()) != std::string::npos;
  }
  if (const Dict* dict = container.as_dict()) {
    budget_.charge_items(dict->items.size());
    return find(*dict, item) != nullptr;
  }
  const std::vector<Value> items = iterate(container);
  return std::any_of(items.begin(), items.end(),
                     [&](const Value& other) { return equals(other, item); });
}

std::vector<Value> Interpreter::iterate(const Value& value) {
  std::vector<Value> items;
  if (const List* list = value.as_list()) {
    budget_.charge_items(list->items.size());
    items = list->items;
  } else if (const Dict* dict = value.as_dict()) {
    budget_.charge_items(dict->items.size());
    for (const auto& item : dict->items) items.push_back(item.first);
  } else if (const Text* text = value.as_text()) {
    budget_.charge_product(static_cast<int64_t>(text->size()), 8 * Budget::kItem);
    for (size_t at = 0; at < text->size();) {
      const size_t next = at + code_point_at(text->bytes(), at).bytes;
      items.push_back(Value::text(text->slice(at, next)));
      at = next;
    }
  } else if (!value.is_undefined()) {
    fail_with("cannot loop over a " + value.type_name());
  }
  return items;
}

Value Interpreter::unary(const std::string& op, const Value& value) {
  if (op == "not") return Value::boolean(!value.truth());
  int64_t i = 0;
  if (value.as_integer(i)) {
    return Value::integer(
        op == "+" ? i : checked(i == INT64_MIN, static_cast<int64_t>(-static_cast<uint64_t>(i))));
  }
  if (!value.is<double>()) mismatch(op, value, value);
  return Value::number(op == "+" ? value.as_double() : -value.as_double());
}

Value Interpreter::repeat(const Value& value, int64_t count) {
  count = std::max<int64_t>(count, 0);
  if (const Text* text = value.as_text()) {
    budget_.charge_product(count, static_cast<int64_t>(text->size() + 8 * text->runs().size()));
    Text out;
    if (!text->empty()) {
      for (int64_t i = 0; i < count; ++i) out.append(*text);
    }
    return Value::text(std::move(out));
  }
  const List& list = *value.as_list();
  budget_.charge_product(count, static_cast<int64_t>(list.items.size()) * 2 * Budget::kItem);
  std::vector<Value> items;
  if (!list.items.empty()) {
    for (int64_t i = 0; i < count; ++i) {
      items.insert(items.end(), list.items.begin(), list.items.end());
    }
  }
  return Value::list(std::move(items), list.tuple);
}

Value Interpreter::binary(const std::string& op, const Value& left, const Value& right) {
  if (left.is_number() && right.is_number()) return arithmetic(op, left, right);
  const Text* a = left.as_text();
  const Text* b = right.as_text();
  const List* list = left.as_list();
  const List* other = right.as_list();
  int64_t count = 0;
  if (op == "+" && a != nullptr && b != nullptr) {
    budget_.charge_bytes(a->size() + b->size() + 8 * (a->runs().size() + b->runs().size()));
    Text out = *a;
    out.append(*b);
    return Value::text(std::move(out));
  }
  if (op == "+" && list != nullptr && other != nullptr && list->tuple == other->tuple) {
    budget_.charge_items(2 * (list->items.size() + other->items.size()));
    std::vector<Value> items = list->items;
    items.insert(items.end(), other->items.begin(), other->items.end());
    return Value::list(std::move(items), list->tuple);
  }
  if (op == "*" && (a != nullptr || list != nullptr) && right.as_integer(count)) {
    return repeat(left, count);
  }
  if (op == "*" && (b != nullptr || other != nullptr) && left.as_integer(count)) {
    return repeat(right, count);
  }
  mismatch(op, left, right);
}

Value Interpreter::arithmetic(const std::string& op, const Value& left, const Value& right) {
  int64_t a = 0;
  int64_t b = 0;
  if (left.as_integer(a) && right.as_integer(b)) return integers(op, a, b);
  return doubles(op, left.as_double(), right.as_double());
}

bool Interpreter::compare(const std::string& op, const Value& left, const Value& right) {
  if (op == "==") return equals(left, right);
  if (op == "!=") return !equals(left, right);
  if (op == "in") return contains(right, left);
  if (op == "not in") return !contains(right, left);
  if (left.is_undefined() || right.is_undefined()) mismatch(op, left, right);
  budget_.charge(std::min(left.weight(), right.weight()));
  if (left.is_number() && right.is_number() &&
      (std::isnan(left.as_double()) || std::isnan(right.as_double()))) {
    return false;
  }
  if (op == "<") return less(left, right);
  if (op == ">") return less(right, left);
  return op == "<=" ? !less(right, left) : !less(left, right);
}

Value Interpreter::slice(const Value& object, const Value& start, const Value& stop,
                         const Value& step) {
  int64_t by = 1;
  if (!step.is_none() && (!step.as_integer(by) || by == 0 || by == INT64_MIN)) {
    fail_with("a slice needs a step other than 0");
  }
  const Text* text = object.as_text();
  const List* list = object.as_list();
  if (text == nullptr && list == nullptr) mismatch("[:]", object, object);
  std::vector<size_t> at;  // where the characters begin, and the end
  if (text != nullptr) {
    budget_.charge_product(static_cast<int64_t>(text->size()), 8);
    for (size_t i = 0; i < text->size(); i += code_point_at(text->bytes(), i).bytes)
      at.push_back(i);
    at.push_back(text->size());
  }
  const auto size = static_cast<int64_t>(text != nullptr ? at.size() - 1 : list->items.size());
  const int64_t first = bound(start, size, by > 0 ? 0 : size - 1, by > 0);
  const int64_t last = bound(stop, size, by > 0 ? size : -1, by > 0);
  Text out;
  std::vector<Value> items;
  for (int64_t i = first; by > 0 ? i < last : i > last;) {
    const auto k = static_cast<size_t>(i);
    if (text != nullptr) {
      out.append(*text, at[k], at[k + 1]);
    } else {
      items.push_back(list->items[k]);
    }
    if (by > 0 ? by >= last - i : by <= last - i) break;
    i += by;
  }
  budget_.charge_items(items.size());
  return text != nullptr ? Value::text(std::move(out)) : Value::list(std::move(items), list->tuple);
}

}  // namespace troupe::jinja
