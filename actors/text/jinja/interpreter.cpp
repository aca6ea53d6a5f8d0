#include "actors/text/jinja/interpreter.h"

#include <algorithm>

namespace troupe::jinja {

/// One level of the interpreter's own recursion.
struct Recursion {
  explicit Recursion(Interpreter& owner) : interpreter(owner) {
    // Macros can call themselves, so running may nest deeper than the text does.
    if (interpreter.depth_ >= 3 * kMaxSyntaxDepth) fail_with("nested too deep");
    ++interpreter.depth_;
  }
  ~Recursion() { --interpreter.depth_; }
  Recursion(const Recursion&) = delete;
  Recursion& operator=(const Recursion&) = delete;
  Interpreter& interpreter;
};

const Value* Arguments::get(size_t position, std::string_view name) const {
  if (position < positional.size()) return &positional[position];
  for (const auto& [keyword, value] : keywords) {
    if (keyword == name) return &value;
  }
  return nullptr;
}

const Value& Arguments::need(size_t position, std::string_view name) const {
  const Value* value = get(position, name);
  if (value == nullptr) fail_with("the argument '" + std::string(name) + "' is missing");
  return *value;
}

Interpreter::Interpreter(Scope globals, Budget budget, size_t max_output)
    : budget_(budget), max_output_(max_output), globals_(std::move(globals)), scopes_(1) {}

Text Interpreter::run(const Block& block) {
  Text out;
  execute(block, out);
  return out;
}

Value Interpreter::lookup(const std::string& name) const {
  for (size_t i = scopes_.size(); i > visible_; --i) {
    const auto found = scopes_[i - 1].find(name);
    if (found != scopes_[i - 1].end()) return found->second;
  }
  const auto top = scopes_.front().find(name);
  if (top != scopes_.front().end()) return top->second;
  const auto global = globals_.find(name);
  return global != globals_.end() ? global->second : Value::undefined(name);
}

void Interpreter::print(const Text& text, Text& out) {
  budget_.charge_bytes(text.size());
  if (text.size() > max_output_ || out.size() > max_output_ - text.size()) {
    fail_with("the template writes too much text");
  }
  out.append(text);
}

Interpreter::Flow Interpreter::execute(const Block& block, Text& out) {
  const Recursion recursion(*this);
  for (const auto& stmt : block) {
    try {
      budget_.charge(Budget::kStep);
      const Flow flow = execute(*stmt, out);
      if (flow != Flow::kNormal) return flow;
    } catch (Failure& failure) {
      if (failure.line == 0) failure.line = stmt->line;
      throw;
    }
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::execute(const Stmt& stmt, Text& out) {
  switch (stmt.kind) {
    case StmtKind::kText: print(stmt.text, out); break;
    case StmtKind::kPrint: print(text_of(evaluate(*stmt.expr)), out); break;
    case StmtKind::kIf: return execute_if(stmt, out);
    case StmtKind::kFor: return execute_for(stmt, out);
    case StmtKind::kSet:
    case StmtKind::kSetBlock: execute_set(stmt); break;
    case StmtKind::kMacro:
      scopes_.back()[stmt.macro.name] = Value::callable(stmt.macro.name, &stmt.macro);
      break;
    case StmtKind::kCallBlock: print(text_of(captured(stmt)), out); break;
    case StmtKind::kBreak: return Flow::kBreak;
    case StmtKind::kContinue: return Flow::kContinue;
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::execute_if(const Stmt& stmt, Text& out) {
  for (const Branch& branch : stmt.branches) {
    if (branch.condition == nullptr || evaluate(*branch.condition).truth()) {
      return execute(branch.body, out);
    }
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::execute_for(const Stmt& stmt, Text& out) {
  std::vector<Value> items = iterate(evaluate(*stmt.expr));
  scopes_.emplace_back();
  if (stmt.condition != nullptr) {
    std::vector<Value> kept;
    for (Value& item : items) {
      assign(stmt.targets, item);
      if (evaluate(*stmt.condition).truth()) kept.push_back(std::move(item));
    }
    items = std::move(kept);
  }
  if (items.empty()) {
    scopes_.back().clear();
    const Flow flow = execute(stmt.otherwise, out);
    scopes_.pop_back();
    return flow;
  }
  const size_t count = items.size();
  const auto list = std::make_shared<const List>(List{std::move(items)});
  for (size_t i = 0; i < count; ++i) {
    budget_.charge(Budget::kStep);
    scopes_.back().clear();  // what an iteration sets is gone in the next
    assign(stmt.targets, list->items[i]);
    scopes_.back()["loop"] = Value(std::make_shared<const Loop>(Loop{list, i}));
    if (execute(stmt.body, out) == Flow::kBreak) break;
  }
  scopes_.pop_back();
  return Flow::kNormal;
}

void Interpreter::execute_set(const Stmt& stmt) {
  const Value value = stmt.kind == StmtKind::kSet ? evaluate(*stmt.expr) : captured(stmt);
  if (stmt.attribute.empty()) {
    assign(stmt.targets, value);
    return;
  }
  const Value object = lookup(stmt.targets.front());
  Dict* space = object.as_namespace();
  if (space == nullptr) fail_with("only a namespace has attributes that can be set");
  // dict() checks that the value may be stored; a namespace in itself would never be freed.
  auto items = space->items;
  const Value* old = find(*space, stmt.attribute);
  if (old != nullptr) {
    items[static_cast<size_t>(std::find_if(space->items.begin(), space->items.end(),
                                           [&](const auto& item) { return &item.second == old; }) -
                              space->items.begin())]
        .second = value;
  } else {
    items.emplace_back(Value::text(stmt.attribute), value);
  }
  budget_.charge_items(items.size());
  const Value checked = Value::dict(items, true);
  space->items = std::move(items);
}

Value Interpreter::captured(const Stmt& stmt) {
  Text text;
  scopes_.emplace_back();
  execute(stmt.body, text);
  scopes_.pop_back();
  Value value = Value::text(std::move(text));
  if (stmt.expr == nullptr) return value;
  scopes_.emplace_back()[""] = std::move(value);  // the name that the parser put below the filters
  value = evaluate(*stmt.expr);
  scopes_.pop_back();
  return value;
}

void Interpreter::assign(const std::vector<std::string>& targets, const Value& value) {
  if (targets.size() == 1) {
    scopes_.back()[targets.front()] = value;
    return;
  }
  const std::vector<Value> parts = iterate(value);
  if (parts.size() != targets.size()) fail_with("the number of values to unpack does not fit");
  for (size_t i = 0; i < parts.size(); ++i) scopes_.back()[targets[i]] = parts[i];
}

Value Interpreter::call_macro(const Macro& macro, const Arguments& arguments) {
  const Recursion recursion(*this);
  if (arguments.positional.size() > macro.parameters.size()) {
    fail_with("too many arguments for the macro '" + macro.name + "'");
  }
  for (const auto& [name, value] : arguments.keywords) {
    const bool known = std::any_of(macro.parameters.begin(), macro.parameters.end(),
                                   [&n = name](const auto& p) { return p.first == n; });
    if (!known) fail_with("the macro '" + macro.name + "' has no argument '" + name + "'");
  }
  const size_t caller = std::exchange(visible_, scopes_.size());
  scopes_.emplace_back();
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const auto& [name, otherwise] = macro.parameters[i];
    const Value* given = arguments.get(i, name);
    Value value = given != nullptr       ? *given
                  : otherwise != nullptr ? evaluate(*otherwise)
                                         : Value::undefined(name);
    scopes_.back()[name] = std::move(value);
  }
  Text text;
  execute(macro.body, text);
  scopes_.pop_back();
  visible_ = caller;
  return Value::text(std::move(text));
}

Value Interpreter::evaluate(const Expr& expr) {
  const Recursion recursion(*this);
  budget_.charge(Budget::kStep);
  return evaluate_node(expr);
}

}  // namespace troupe::jinja
