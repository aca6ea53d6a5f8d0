#include "actors/text/jinja/parser.h"

#include <algorithm>

namespace troupe::jinja {

using Kind = Token::Kind;

const Token& Parser::peek(size_t ahead) const {
  return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
}

Token Parser::take() {
  Token token = peek();
  if (at_ + 1 < tokens_.size()) ++at_;  // the end stays
  return token;
}

bool Parser::at_operator(std::string_view symbol) const {
  return peek().kind == Kind::kOperator && peek().text == symbol;
}

bool Parser::at_name(std::string_view name, size_t ahead) const {
  return peek(ahead).kind == Kind::kName && peek(ahead).text == name;
}

bool Parser::skip_operator(std::string_view symbol) {
  if (!at_operator(symbol)) return false;
  take();
  return true;
}

bool Parser::skip_name(std::string_view name) {
  if (!at_name(name)) return false;
  take();
  return true;
}

void Parser::expect_operator(std::string_view symbol) {
  if (!skip_operator(symbol)) unexpected();
}

void Parser::expect_name(std::string_view name) {
  if (!skip_name(name)) unexpected();
}

void Parser::expect_block_end() {
  if (peek().kind != Kind::kBlockEnd) unexpected();
  take();
}

std::string Parser::expect_any_name() {
  if (peek().kind != Kind::kName) unexpected();
  return take().text;
}

void Parser::unexpected() const {
  const Token& token = peek();
  throw Failure(token.line,
                token.kind == Kind::kText ? "unexpected text" : "unexpected '" + token.text + "'");
}

Block Parser::parse_template() {
  Block body = block({});
  if (peek().kind != Kind::kEnd) unexpected();
  return body;
}

Block Parser::block(Names ends) {
  const Nesting nesting(*this);
  Block body;
  while (peek().kind != Kind::kEnd) {
    if (peek().kind == Kind::kBlockBegin &&
        std::any_of(ends.begin(), ends.end(), [&](auto end) { return at_name(end, 1); })) {
      take();
      return body;
    }
    body.push_back(statement());
  }
  if (ends.size() > 0) {
    throw Failure(peek().line, "'" + std::string(*(ends.end() - 1)) + "' is missing");
  }
  return body;
}

std::unique_ptr<const Stmt> Parser::statement() {
  auto stmt = std::make_unique<Stmt>();
  stmt->line = peek().line;
  const Token begin = take();
  if (begin.kind == Kind::kText) {
    stmt->text = Text(begin.text, Origin::kTemplate);
    return stmt;
  }
  if (begin.kind == Kind::kPrintBegin) {
    stmt->kind = StmtKind::kPrint;
    stmt->expr = tuple();
    if (peek().kind != Kind::kPrintEnd) unexpected();
    take();
    return stmt;
  }
  if (begin.kind != Kind::kBlockBegin) unexpected();
  const std::string tag = expect_any_name();
  if (tag == "if") {
    if_statement(*stmt);
  } else if (tag == "for") {
    for_statement(*stmt);
  } else if (tag == "set") {
    set_statement(*stmt);
  } else if (tag == "macro") {
    macro_statement(*stmt);
  } else if (tag == "generation" || tag == "filter") {
    stmt->kind = StmtKind::kCallBlock;
    if (tag == "filter") {
      auto body = std::make_unique<Expr>();
      body->kind = ExprKind::kName;  // stands for the body's text
      stmt->expr = filters(filter(std::move(body)));
    }
    expect_block_end();
    ++scopes_;
    stmt->body = tag == "filter" ? block({"endfilter"}) : block({"endgeneration"});
    --scopes_;
    take();
  } else if (tag == "break" || tag == "continue") {
    if (loops_ == 0) throw Failure(stmt->line, "'" + tag + "' outside of a loop");
    stmt->kind = tag == "break" ? StmtKind::kBreak : StmtKind::kContinue;
  } else {
    throw Failure(stmt->line, "the tag '" + tag + "' is not supported");
  }
  expect_block_end();
  return stmt;
}

void Parser::if_statement(Stmt& stmt) {
  stmt.kind = StmtKind::kIf;
  bool last = false;
  do {
    Branch branch;
    if (!last) branch.condition = tuple();
    expect_block_end();
    branch.body = last ? block({"endif"}) : block({"elif", "else", "endif"});
    stmt.branches.push_back(std::move(branch));
    last = at_name("else");
  } while (take().text != "endif");
}

std::vector<std::string> Parser::target_names() {
  std::vector<std::string> names;
  const bool parenthesis = skip_operator("(");
  do {
    if (!names.empty() && peek().kind != Kind::kName) break;  // a trailing comma
    names.push_back(expect_any_name());
  } while (skip_operator(","));
  if (parenthesis) expect_operator(")");
  return names;
}

void Parser::for_statement(Stmt& stmt) {
  stmt.kind = StmtKind::kFor;
  stmt.targets = target_names();
  expect_name("in");
  stmt.expr = binary(0);  // a bare `if` here is the loop's filter
  if (skip_name("if")) stmt.condition = expression();
  if (at_name("recursive")) throw Failure(stmt.line, "recursive loops are not supported");
  expect_block_end();
  ++loops_;
  ++scopes_;
  stmt.body = block({"else", "endfor"});
  --loops_;
  if (take().text == "else") {
    expect_block_end();
    stmt.otherwise = block({"endfor"});
    take();
  }
  --scopes_;
}

void Parser::set_statement(Stmt& stmt) {
  stmt.targets = target_names();
  if (skip_operator(".")) {
    if (stmt.targets.size() != 1) unexpected();
    stmt.attribute = expect_any_name();
  }
  if (skip_operator("=")) {
    stmt.kind = StmtKind::kSet;
    stmt.expr = tuple();
    return;
  }
  stmt.kind = StmtKind::kSetBlock;
  if (skip_operator("|")) {
    auto body = std::make_unique<Expr>();
    body->kind = ExprKind::kName;
    stmt.expr = filters(filter(std::move(body)));
  }
  expect_block_end();
  ++scopes_;
  stmt.body = block({"endset"});
  --scopes_;
  take();
}

void Parser::macro_statement(Stmt& stmt) {
  // A macro sees the template's top-level variables and its own, which is Jinja's rule only for
  // macros at the top level.
  if (scopes_ > 0) throw Failure(stmt.line, "macros inside of loops or blocks are not supported");
  stmt.kind = StmtKind::kMacro;
  stmt.macro.name = expect_any_name();
  expect_operator("(");
  while (!skip_operator(")")) {
    if (!stmt.macro.parameters.empty()) expect_operator(",");
    std::string name = expect_any_name();
    ExprPtr value = skip_operator("=") ? expression() : nullptr;
    stmt.macro.parameters.emplace_back(std::move(name), std::move(value));
  }
  expect_block_end();
  const int32_t loops = std::exchange(loops_, 0);
  ++scopes_;
  stmt.macro.body = block({"endmacro"});
  --scopes_;
  loops_ = loops;
  take();
}

Block parse(std::string_view source) { return Parser(tokenize(source)).parse_template(); }

}  // namespace troupe::jinja
