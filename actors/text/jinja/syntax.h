#pragma once

#include "actors/text/jinja/value.h"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe::jinja {

/// Expressions and statements nest at most this deep, in the text and (macros) while running.
constexpr int32_t kMaxSyntaxDepth = 150;

struct Expr;
using ExprPtr = std::unique_ptr<const Expr>;

/// One node of an expression. `children` by kind:
enum class ExprKind : uint8_t {
  kLiteral,    // value
  kName,       // name
  kList,       // items
  kTuple,      // items
  kDict,       // key, value, key, value...
  kAttribute,  // object; name
  kSubscript,  // object, index
  kSlice,      // object, start, stop, step; each may be null but the object
  kCall,       // callee, then positional arguments; keywords
  kFilter,     // operand, then positional arguments; name, keywords
  kTest,       // operand, then positional arguments; name
  kUnary,      // operand; name: "not", "-", "+"
  kBinary,     // left, right; name: "+", "-", "*", "/", "//", "%", "**"
  kConcat,     // all operands of a chain of ~
  kAnd,        // left, right
  kOr,         // left, right
  kCompare,    // operands; operators: "==", ..., "in", "not in", one less than operands
  kIf,         // condition, value, otherwise (may be null)
};

struct Expr {
  ExprKind kind = ExprKind::kLiteral;
  int32_t line = 0;
  int32_t depth = 1;
  std::string name;
  Value value;
  std::vector<ExprPtr> children;
  std::vector<std::pair<std::string, ExprPtr>> keywords;
  std::vector<std::string> operators;
};

struct Stmt;
using Block = std::vector<std::unique_ptr<const Stmt>>;

enum class StmtKind : uint8_t {
  kText,       // text
  kPrint,      // expr
  kIf,         // branches; a null condition is the else
  kFor,        // targets, expr (the iterable), condition (or null), body, otherwise
  kSet,        // targets (or name.attribute), expr
  kSetBlock,   // targets (or name.attribute), body, expr = filters over kName "" (or null)
  kMacro,      // macro
  kCallBlock,  // body printed in a scope of its own: generation, filter (expr as in kSetBlock)
  kBreak,
  kContinue,
};

struct Branch {
  ExprPtr condition;
  Block body;
};

/// A macro's parameters may have defaults; a null one has none.
struct Macro {
  std::string name;
  std::vector<std::pair<std::string, ExprPtr>> parameters;
  Block body;
};

struct Stmt {
  StmtKind kind = StmtKind::kText;
  int32_t line = 0;
  Text text;
  std::vector<std::string> targets;
  std::string attribute;  // {% set targets[0].attribute = ... %}
  ExprPtr expr;
  ExprPtr condition;
  std::vector<Branch> branches;
  Block body;
  Block otherwise;
  Macro macro;
};

/// Parses a template with trim_blocks and lstrip_blocks on, as chat templates are written for.
/// Throws Failure with the line.
Block parse(std::string_view source);

}  // namespace troupe::jinja
