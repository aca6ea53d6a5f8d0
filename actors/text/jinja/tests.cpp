#include "actors/text/jinja/interpreter.h"
#include "actors/text/jinja/parser.h"

#include <algorithm>
#include <array>

namespace troupe::jinja {
namespace {

constexpr std::array<std::string_view, 33> kTests = {
    "defined",  "undefined",   "none",        "string",  "mapping", "iterable", "sequence",
    "number",   "integer",     "float",       "boolean", "true",    "false",    "equalto",
    "eq",       "==",          "ne",          "sameas",  "in",      "odd",      "even",
    "callable", "divisibleby", "lower",       "upper",   "gt",      "ge",       "lt",
    "le",       "lessthan",    "greaterthan", "filter",  "test"};

int64_t whole(const Value& value) {
  int64_t out = 0;
  if (!value.as_integer(out)) fail_with("the test needs an integer, not a " + value.type_name());
  return out;
}

}  // namespace

bool is_known_test(std::string_view name) {
  return std::find(kTests.begin(), kTests.end(), name) != kTests.end();
}

bool Interpreter::apply_test(const std::string& name, const Value& operand,
                             const Arguments& arguments) {
  const auto other = [&]() -> const Value& { return arguments.need(0, "other"); };
  if (name == "defined") return !operand.is_undefined();
  if (name == "undefined") return operand.is_undefined();
  if (name == "none") return operand.is_none();
  if (name == "string") return operand.as_text() != nullptr;
  if (name == "mapping") return operand.as_dict() != nullptr;
  if (name == "iterable" || name == "sequence") {
    return operand.as_text() != nullptr || operand.as_list() != nullptr ||
           operand.as_dict() != nullptr || operand.is_undefined();
  }
  if (name == "number") return operand.is_number();
  if (name == "integer") return operand.is<int64_t>();
  if (name == "float") return operand.is<double>();
  if (name == "boolean") return operand.is<bool>();
  if (name == "true" || name == "false") {
    return operand.is<bool>() && operand.as<bool>() == (name == "true");
  }
  if (name == "callable") return operand.as_callable() != nullptr;
  if (name == "filter" || name == "test") {
    if (operand.as_text() == nullptr) return false;
    const std::string& asked = operand.as_text()->bytes();
    return name == "filter" ? is_known_filter(asked) : is_known_test(asked);
  }
  if (name == "odd") return whole(operand) % 2 != 0;
  if (name == "even") return whole(operand) % 2 == 0;
  if (name == "divisibleby") {
    const int64_t by = whole(other());
    if (by == 0) fail_with("division by zero");
    return by == -1 || whole(operand) % by == 0;
  }
  if (name == "lower" || name == "upper") {
    const Text text = text_of(operand);
    const Text changed = change_case(text, name == "lower" ? Case::kLower : Case::kUpper);
    const Text opposite = change_case(text, name == "lower" ? Case::kUpper : Case::kLower);
    return changed.bytes() == text.bytes() && opposite.bytes() != text.bytes();
  }
  if (name == "sameas") {
    // Identity of shared objects is not tracked: constants are what templates compare.
    return operand.data().index() == other().data().index() && equals(operand, other());
  }
  if (name == "in") return compare("in", operand, other());
  if (name == "ne") return compare("!=", operand, other());
  if (name == "gt" || name == "greaterthan") return compare(">", operand, other());
  if (name == "ge") return compare(">=", operand, other());
  if (name == "lt" || name == "lessthan") return compare("<", operand, other());
  if (name == "le") return compare("<=", operand, other());
  return compare("==", operand, other());
}

}  // namespace troupe::jinja
