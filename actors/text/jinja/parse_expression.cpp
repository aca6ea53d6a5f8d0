#include "actors/text/jinja/parser.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>

namespace troupe::jinja {
namespace {

using Kind = Token::Kind;

std::unique_ptr<Expr> node(ExprKind kind, int32_t line, std::string name = {}) {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  expr->name = std::move(name);
  return expr;
}

/// A chain such as a+a+a+... makes a deep tree without any recursion here, so depth is counted in
/// the tree: the interpreter and the destructor recurse over it.
void adopt(Expr& parent, ExprPtr child) {
  if (child != nullptr) {
    parent.depth = std::max(parent.depth, child->depth + 1);
    if (parent.depth > kMaxSyntaxDepth) throw Failure(parent.line, "nested too deep");
  }
  parent.children.push_back(std::move(child));
}

/// Binary operators from loose to tight. Unlike in Python, ~ stands between + and *.
constexpr int kNot = 2;
constexpr int kCompareLevel = 3;
constexpr int kConcatLevel = 5;
constexpr int kTightest = 7;
const std::array<std::vector<std::string_view>, 8> kLevels = {
    {{"or"}, {"and"}, {}, {}, {"+", "-"}, {}, {"*", "/", "//", "%"}, {"**"}}};

}  // namespace

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

ExprPtr Parser::primary() {
  if (at_operator("(")) {
    const Token open = take();
    if (skip_operator(")")) return node(ExprKind::kTuple, open.line);
    ExprPtr inner = tuple();
    expect_operator(")");
    return inner;
  }
  if (at_operator("[")) {
    take();
    return list_until(ExprKind::kList, "]");
  }
  if (at_operator("{")) return dict();
  const Token token = peek();
  auto literal = node(ExprKind::kLiteral, token.line);
  switch (token.kind) {
    case Kind::kString: {
      std::string text;  // adjacent literals are one
      while (peek().kind == Kind::kString) text += take().text;
      literal->value = Value::text(text);
      return literal;
    }
    case Kind::kInteger: {
      int64_t value = 0;
      const auto end = token.text.data() + token.text.size();
      if (std::from_chars(token.text.data(), end, value).ec != std::errc()) {
        throw Failure(token.line, "a number is too large");
      }
      literal->value = Value::integer(value);
      break;
    }
    case Kind::kFloat: {
      double value = 0;
      std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
      literal->value = Value::number(value);
      break;
    }
    case Kind::kName:
      if (token.text == "true" || token.text == "True") {
        literal->value = Value::boolean(true);
      } else if (token.text == "false" || token.text == "False") {
        literal->value = Value::boolean(false);
      } else if (token.text == "none" || token.text == "None") {
        literal->value = Value::none();
      } else {
        literal->kind = ExprKind::kName;
        literal->name = token.text;
      }
      break;
    default: unexpected();
  }
  take();
  return literal;
}

ExprPtr Parser::list_until(ExprKind kind, std::string_view close) {
  auto list = node(kind, peek().line);
  while (!skip_operator(close)) {
    if (!list->children.empty()) {
      expect_operator(",");
      if (skip_operator(close)) break;
    }
    adopt(*list, expression());
  }
  return list;
}

ExprPtr Parser::dict() {
  auto dict = node(ExprKind::kDict, take().line);
  while (!skip_operator("}")) {
    if (!dict->children.empty()) {
      expect_operator(",");
      if (skip_operator("}")) break;
    }
    adopt(*dict, expression());
    expect_operator(":");
    adopt(*dict, expression());
  }
  return dict;
}

ExprPtr Parser::postfix(ExprPtr operand) {
  while (true) {
    if (at_operator(".")) {
      const int32_t line = take().line;
      const bool number = peek().kind == Kind::kInteger;
      auto access = node(number ? ExprKind::kSubscript : ExprKind::kAttribute, line);
      adopt(*access, std::move(operand));
      if (number) {
        adopt(*access, primary());
      } else {
        access->name = expect_any_name();
      }
      operand = std::move(access);
    } else if (at_operator("[")) {
      operand = subscript(std::move(operand));
    } else if (at_operator("(")) {
      auto call = node(ExprKind::kCall, peek().line);
      adopt(*call, std::move(operand));
      arguments(*call);
      operand = std::move(call);
    } else {
      return operand;
    }
  }
}

ExprPtr Parser::subscript(ExprPtr operand) {
  const int32_t line = take().line;
  ExprPtr start = at_operator(":") ? nullptr : expression();
  if (!at_operator(":")) {
    auto access = node(ExprKind::kSubscript, line);
    adopt(*access, std::move(operand));
    adopt(*access, std::move(start));
    expect_operator("]");
    return access;
  }
  auto slice = node(ExprKind::kSlice, line);
  adopt(*slice, std::move(operand));
  adopt(*slice, std::move(start));
  for (int part = 0; part < 2; ++part) {
    const bool given = skip_operator(":") && !at_operator(":") && !at_operator("]");
    adopt(*slice, given ? expression() : nullptr);
  }
  expect_operator("]");
  return slice;
}

void Parser::arguments(Expr& call) {
  expect_operator("(");
  bool first = true;
  while (!skip_operator(")")) {
    if (!first) {
      expect_operator(",");
      if (skip_operator(")")) break;
    }
    first = false;
    if (peek().kind == Kind::kName && peek(1).kind == Kind::kOperator && peek(1).text == "=") {
      std::string name = take().text;
      take();
      ExprPtr value = expression();
      call.depth = std::max(call.depth, value->depth + 1);
      call.keywords.emplace_back(std::move(name), std::move(value));
    } else {
      if (!call.keywords.empty()) unexpected();
      adopt(call, expression());
    }
  }
}

ExprPtr Parser::filters(ExprPtr operand) {
  while (true) {
    if (at_operator("|")) {
      take();
      operand = filter(std::move(operand));
    } else if (at_name("is")) {
      operand = test(std::move(operand));
    } else if (at_operator("(")) {
      operand = postfix(std::move(operand));
    } else {
      return operand;
    }
  }
}

ExprPtr Parser::filter(ExprPtr operand) {
  auto call = node(ExprKind::kFilter, peek().line);
  call->name = expect_any_name();
  if (!is_known_filter(call->name)) {
    throw Failure(call->line, "the filter '" + call->name + "' is not supported");
  }
  adopt(*call, std::move(operand));
  if (at_operator("(")) arguments(*call);
  return call;
}

ExprPtr Parser::test(ExprPtr operand) {
  const int32_t line = take().line;
  const bool negated = skip_name("not");
  auto call = node(ExprKind::kTest, line, expect_any_name());
  if (!is_known_test(call->name)) {
    throw Failure(line, "the test '" + call->name + "' is not supported");
  }
  adopt(*call, std::move(operand));
  const Kind next = peek().kind;
  const bool word = next == Kind::kName && !at_name("else") && !at_name("or") && !at_name("and");
  if (at_operator("(")) {
    arguments(*call);
  } else if (at_name("is")) {
    unexpected();  // tests do not chain
  } else if (word || next == Kind::kString || next == Kind::kInteger || next == Kind::kFloat ||
             at_operator("[") || at_operator("{")) {
    adopt(*call, postfix(primary()));
  }
  if (!negated) return call;
  auto negation = node(ExprKind::kUnary, line, "not");
  adopt(*negation, std::move(call));
  return negation;
}

}  // namespace troupe::jinja
