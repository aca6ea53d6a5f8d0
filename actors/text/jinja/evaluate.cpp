#include "actors/text/jinja/interpreter.h"

#include <array>
#include <ctime>

namespace troupe::jinja {
namespace {

/// The local time as strftime() writes it.
Value time_now(const Value& format) {
  const Text* text = format.as_text();
  if (text == nullptr || text->size() > 200) fail_with("strftime_now needs a short format");
  if (text->empty()) return Value::text("");
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::array<char, 4096> buffer{};
  const size_t size = std::strftime(buffer.data(), buffer.size(), text->bytes().c_str(), &local);
  return Value::text(std::string_view(buffer.data(), size));
}

Value range(const Arguments& arguments, Budget& budget) {
  std::array<int64_t, 3> part = {0, 0, 1};
  const size_t given = arguments.positional.size();
  if (given < 1 || given > 3) fail_with("range needs one to three arguments");
  for (size_t i = 0; i < given; ++i) {
    const bool integer = arguments.positional[i].as_integer(part.at(given == 1 ? 1 : i));
    if (!integer) fail_with("range needs integers");
  }
  const auto [start, stop, step] = part;
  constexpr int64_t kFar = int64_t{1} << 40U;  // so that nothing below overflows
  if (step == 0 || start < -kFar || start > kFar || stop < -kFar || stop > kFar || step < -kFar ||
      step > kFar) {
    fail_with("range does not take these numbers");
  }
  const int64_t span = step > 0 ? stop - start + step - 1 : start - stop - step - 1;
  const int64_t count = std::max<int64_t>(0, span / (step > 0 ? step : -step));
  budget.charge_product(count, 2 * Budget::kItem);
  std::vector<Value> items;
  items.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) items.push_back(Value::integer(start + i * step));
  return Value::list(std::move(items));
}

Value make_dict(const Arguments& arguments, bool is_namespace) {
  std::vector<std::pair<Value, Value>> items;
  if (!arguments.positional.empty()) {
    const Dict* base = arguments.positional.front().as_dict();
    if (base == nullptr) fail_with("dict() and namespace() need a dict");
    items = base->items;
  }
  for (const auto& [name, value] : arguments.keywords) {
    const Value key = Value::text(name);
    auto old = items.begin();
    while (old != items.end() && !equal(old->first, key)) ++old;
    if (old != items.end()) {
      old->second = value;
    } else {
      items.emplace_back(key, value);
    }
  }
  return Value::dict(std::move(items), is_namespace);
}

}  // namespace

Value Interpreter::evaluate_node(const Expr& expr) {
  const auto child = [&](size_t i) { return evaluate(*expr.children[i]); };
  switch (expr.kind) {
    case ExprKind::kLiteral: return expr.value;
    case ExprKind::kName: return lookup(expr.name);
    case ExprKind::kList:
    case ExprKind::kTuple: {
      std::vector<Value> items;
      items.reserve(expr.children.size());
      for (size_t i = 0; i < expr.children.size(); ++i) items.push_back(child(i));
      return Value::list(std::move(items), expr.kind == ExprKind::kTuple);
    }
    case ExprKind::kDict: return evaluate_dict(expr);
    case ExprKind::kAttribute: return attribute(child(0), expr.name);
    case ExprKind::kSubscript: {
      const Value object = child(0);
      return subscript(object, child(1));
    }
    case ExprKind::kSlice: return evaluate_slice(expr);
    case ExprKind::kCall: return call(expr);
    case ExprKind::kFilter: {
      const Value operand = child(0);
      return apply_filter(expr.name, operand, evaluate_arguments(expr));
    }
    case ExprKind::kTest: {
      const Value operand = child(0);
      return Value::boolean(apply_test(expr.name, operand, evaluate_arguments(expr)));
    }
    case ExprKind::kUnary: return unary(expr.name, child(0));
    case ExprKind::kBinary: {
      const Value left = child(0);
      return binary(expr.name, left, child(1));
    }
    case ExprKind::kConcat: {
      Text text;
      for (size_t i = 0; i < expr.children.size(); ++i) text.append(text_of(child(i)));
      return Value::text(std::move(text));
    }
    case ExprKind::kAnd: {
      Value left = child(0);
      return left.truth() ? child(1) : left;
    }
    case ExprKind::kOr: {
      Value left = child(0);
      return left.truth() ? left : child(1);
    }
    case ExprKind::kCompare: return evaluate_compare(expr);
    case ExprKind::kIf:
      if (child(0).truth()) return child(1);
      return expr.children[2] == nullptr ? Value::undefined("inline if") : child(2);
  }
  fail_with("unknown expression");
}

Value Interpreter::evaluate_dict(const Expr& expr) {
  std::vector<std::pair<Value, Value>> items;
  for (size_t i = 0; i < expr.children.size(); i += 2) {
    if (items.size() > kMaxDictItems) fail_with("a dict has too many keys");
    const Value key = evaluate(*expr.children[i]);
    const Value value = evaluate(*expr.children[i + 1]);
    if (key.as_text() == nullptr && !key.is_number() && !key.is_none()) {
      fail_with("a " + key.type_name() + " cannot be a key");
    }
    auto old = items.begin();
    while (old != items.end() && !equals(old->first, key)) ++old;
    if (old != items.end()) {
      old->second = value;
    } else {
      items.emplace_back(key, value);
    }
  }
  return Value::dict(std::move(items));
}

Value Interpreter::evaluate_compare(const Expr& expr) {
  Value left = evaluate(*expr.children[0]);
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    Value right = evaluate(*expr.children[i + 1]);
    if (!compare(expr.operators[i], left, right)) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Value Interpreter::evaluate_slice(const Expr& expr) {
  const auto part = [&](size_t i) {
    return expr.children[i] == nullptr ? Value::none() : evaluate(*expr.children[i]);
  };
  const Value object = part(0);
  const Value start = part(1);
  const Value stop = part(2);
  return slice(object, start, stop, part(3));
}

Arguments Interpreter::evaluate_arguments(const Expr& expr) {
  Arguments arguments;
  for (size_t i = 1; i < expr.children.size(); ++i) {
    arguments.positional.push_back(evaluate(*expr.children[i]));
  }
  for (const auto& [name, value] : expr.keywords) {
    arguments.keywords.emplace_back(name, evaluate(*value));
  }
  return arguments;
}

Value Interpreter::call(const Expr& expr) {
  const Value callee = evaluate(*expr.children[0]);
  const Callable* function = callee.as_callable();
  if (callee.is_undefined()) fail_with("'" + callee.as<Undefined>().name + "' is undefined");
  if (function == nullptr) fail_with("a " + callee.type_name() + " cannot be called");
  const Arguments arguments = evaluate_arguments(expr);
  if (function->macro != nullptr) return call_macro(*function->macro, arguments);
  if (function->self != nullptr) return call_method(*function->self, function->name, arguments);
  return call_global(function->name, arguments);
}

Value Interpreter::call_global(const std::string& name, const Arguments& arguments) {
  if (name == "range") return range(arguments, budget_);
  if (name == "dict" || name == "namespace") return make_dict(arguments, name == "namespace");
  if (name == "strftime_now") return time_now(arguments.need(0, "format"));
  if (name == "raise_exception") {
    Failure failure(0, text_of(arguments.need(0, "message")).bytes());
    failure.from_template = true;
    throw failure;
  }
  fail_with("'" + name + "' is not supported");
}

}  // namespace troupe::jinja
