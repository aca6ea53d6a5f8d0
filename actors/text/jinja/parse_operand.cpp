#include "actors/text/jinja/parser.h"

#include <algorithm>
#include <charconv>

namespace troupe::jinja {

using Kind = Token::Kind;

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
      if (call.depth > kMaxSyntaxDepth) throw Failure(call.line, "nested too deep");
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
