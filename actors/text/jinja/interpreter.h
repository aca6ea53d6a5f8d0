#pragma once

#include "actors/text/jinja/budget.h"
#include "actors/text/jinja/syntax.h"

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe::jinja {

/// Evaluated arguments of a call, filter or test.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;

  /// The argument at `position` or named `name`; null if not given.
  [[nodiscard]] const Value* get(size_t position, std::string_view name) const;
  /// The same, failing if not given.
  [[nodiscard]] const Value& need(size_t position, std::string_view name) const;
};

using Scope = std::map<std::string, Value, std::less<>>;

/// Runs one rendering of a parsed template. Throws Failure.
class Interpreter {
 public:
  Interpreter(Scope globals, Budget budget, size_t max_output);
  Text run(const Block& block);

  // For filters, tests and methods:
  Budget& budget() { return budget_; }
  Value apply_filter(const std::string& name, const Value& operand, const Arguments& arguments);
  bool apply_test(const std::string& name, const Value& operand, const Arguments& arguments);
  Value call_method(const Value& self, const std::string& name, const Arguments& arguments);
  Value attribute(const Value& object, const std::string& name);
  Value subscript(const Value& object, const Value& index);
  /// What a for loop or a filter walks over: items, characters or keys.
  std::vector<Value> iterate(const Value& value);
  /// str(value), charged.
  Text text_of(const Value& value);
  bool equals(const Value& a, const Value& b);
  bool contains(const Value& container, const Value& item);
  Value binary(const std::string& op, const Value& left, const Value& right);
  bool compare(const std::string& op, const Value& left, const Value& right);

 private:
  enum class Flow { kNormal, kBreak, kContinue };

  // interpreter.cpp: statements.
  Flow execute(const Block& block, Text& out);
  Flow execute(const Stmt& stmt, Text& out);
  Flow execute_if(const Stmt& stmt, Text& out);
  Flow execute_for(const Stmt& stmt, Text& out);
  void execute_set(const Stmt& stmt);
  /// The text of a block run in a scope of its own, filtered by stmt.expr if there is one.
  Value captured(const Stmt& stmt);
  void assign(const std::vector<std::string>& targets, const Value& value);
  void print(const Text& text, Text& out);
  Value call_macro(const Macro& macro, const Arguments& arguments);
  [[nodiscard]] Value lookup(const std::string& name) const;

  // evaluate.cpp: expressions.
  Value evaluate(const Expr& expr);
  Value evaluate_node(const Expr& expr);
  Value evaluate_dict(const Expr& expr);
  Value evaluate_compare(const Expr& expr);
  Value evaluate_slice(const Expr& expr);
  Arguments evaluate_arguments(const Expr& expr);
  Value call(const Expr& expr);
  Value call_global(const std::string& name, const Arguments& arguments);

  // operators.cpp
  Value unary(const std::string& op, const Value& value);
  Value arithmetic(const std::string& op, const Value& left, const Value& right);
  Value repeat(const Value& value, int64_t count);
  Value slice(const Value& object, const Value& start, const Value& stop, const Value& step);

  friend struct Recursion;
  Budget budget_;
  size_t max_output_;
  int32_t depth_ = 0;
  Scope globals_;
  std::vector<Scope> scopes_;  // [0] is the template's top level
  size_t visible_ = 1;  // scopes from here on, and [0], are seen (macros hide their caller's)
};

}  // namespace troupe::jinja
