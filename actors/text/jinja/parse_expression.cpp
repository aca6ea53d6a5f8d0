#include "actors/text/jinja/parser.h"

#include <algorithm>
#include <array>

namespace troupe::jinja {
namespace {

using Kind = Token::Kind;

/// Binary operators from loose to tight. Unlike in Python, ~ stands between + and *.
constexpr int kNot = 2;
constexpr int kCompareLevel = 3;
constexpr int kConcatLevel = 5;
constexpr int kTightest = 7;
const std::array<std::vector<std::string_view>, 8> kLevels = {
    {{"or"}, {"and"}, {}, {}, {"+", "-"}, {}, {"*", "/", "//", "%"}, {"**"}}};

}  // namespace

std::unique_ptr<Expr> node(ExprKind kind, int32_t line, std::string name) {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  expr->name = std::move(name);
  return expr;
}

void adopt(Expr& parent, ExprPtr child) {
  if (child != nullptr) {
    parent.depth = std::max(parent.depth, child->depth + 1);
    if (parent.depth > kMaxSyntaxDepth) throw Failure(parent.line, "nested too deep");
  }
  parent.children.push_back(std::move(child));
}

Nesting::Nesting(Parser& owner) : parser(owner) {
  if (parser.depth_ >= kMaxSyntaxDepth) throw Failure(parser.peek().line, "nested too deep");
  ++parser.depth_;
}

ExprPtr Parser::expression() {
  const Nesting nesting(*this);
  ExprPtr value = binary(0);
  while (at_name("if")) {
    auto choice = node(ExprKind::kIf, take().line);
    adopt(*choice, binary(0));
    adopt(*choice, std::move(value));
    adopt(*choice, skip_name("else") ? expression() : nullptr);
    value = std::move(choice);
  }
  return value;
}

ExprPtr Parser::tuple() {
  ExprPtr first = expression();
  if (!at_operator(",")) return first;
  auto items = node(ExprKind::kTuple, first->line);
  adopt(*items, std::move(first));
  while (skip_operator(",")) {
    const Kind kind = peek().kind;
    if (kind == Kind::kBlockEnd || kind == Kind::kPrintEnd || at_operator(")")) break;
    adopt(*items, expression());
  }
  return items;
}

ExprPtr Parser::binary(int level) {
  if (level > kTightest) return unary(true);
  if (level == kCompareLevel) return comparison();
  if (level == kConcatLevel) return concat();
  if (level == kNot) {
    if (!at_name("not")) return binary(level + 1);
    const Nesting nesting(*this);
    auto negation = node(ExprKind::kUnary, peek().line, take().text);
    adopt(*negation, binary(level));
    return negation;
  }
  ExprPtr left = binary(level + 1);
  while (true) {
    const auto& symbols = kLevels.at(static_cast<size_t>(level));
    const bool word = level < kNot;
    const bool here = peek().kind == (word ? Kind::kName : Kind::kOperator) &&
                      std::find(symbols.begin(), symbols.end(), peek().text) != symbols.end();
    if (!here) return left;
    const Token symbol = take();
    auto operation = node(!word        ? ExprKind::kBinary
                          : level == 0 ? ExprKind::kOr
                                       : ExprKind::kAnd,
                          symbol.line, symbol.text);
    adopt(*operation, std::move(left));
    adopt(*operation, binary(level + 1));
    left = std::move(operation);
  }
}

ExprPtr Parser::comparison() {
  ExprPtr first = binary(kCompareLevel + 1);
  auto chain = node(ExprKind::kCompare, first->line);
  adopt(*chain, std::move(first));
  while (true) {
    constexpr std::array<std::string_view, 6> kSymbols = {"==", "!=", "<", "<=", ">", ">="};
    std::string name;
    if (at_name("in") ||
        (peek().kind == Kind::kOperator &&
         std::find(kSymbols.begin(), kSymbols.end(), peek().text) != kSymbols.end())) {
      name = take().text;
    } else if (at_name("not") && at_name("in", 1)) {
      at_ += 2;
      name = "not in";
    } else {
      break;
    }
    chain->operators.push_back(name);
    adopt(*chain, binary(kCompareLevel + 1));
  }
  if (chain->operators.empty()) return std::move(chain->children.front());
  return chain;
}

ExprPtr Parser::concat() {
  ExprPtr first = binary(kConcatLevel + 1);
  if (!at_operator("~")) return first;
  auto chain = node(ExprKind::kConcat, first->line);
  adopt(*chain, std::move(first));
  while (skip_operator("~")) adopt(*chain, binary(kConcatLevel + 1));
  return chain;
}

ExprPtr Parser::unary(bool with_filters) {
  ExprPtr operand;
  if (at_operator("-") || at_operator("+")) {
    const Nesting nesting(*this);
    auto sign = node(ExprKind::kUnary, peek().line, take().text);
    adopt(*sign, unary(false));
    operand = std::move(sign);
  } else {
    operand = primary();
  }
  operand = postfix(std::move(operand));
  return with_filters ? filters(std::move(operand)) : std::move(operand);
}

}  // namespace troupe::jinja
