#pragma once

#include "actors/text/jinja/lexer.h"
#include "actors/text/jinja/syntax.h"

#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::jinja {

/// Recursive descent over the tokens: operators in parse_expression.cpp, what stands between them
/// in parse_operand.cpp, statements in parse_statement.cpp. Throws Failure.
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  Block parse_template();

 private:
  using Names = std::initializer_list<std::string_view>;

  // Tokens.
  [[nodiscard]] const Token& peek(size_t ahead = 0) const;
  Token take();
  [[nodiscard]] bool at_operator(std::string_view symbol) const;
  [[nodiscard]] bool at_name(std::string_view name, size_t ahead = 0) const;
  bool skip_operator(std::string_view symbol);
  bool skip_name(std::string_view name);
  void expect_operator(std::string_view symbol);
  void expect_name(std::string_view name);
  void expect_block_end();
  std::string expect_any_name();
  [[noreturn]] void unexpected() const;

  // Expressions, loosest first.
  ExprPtr expression();       // a if b else c
  ExprPtr tuple();            // a, b
  ExprPtr binary(int level);  // or, and, not, comparisons, + -, ~, * / // %, **
  ExprPtr comparison();
  ExprPtr concat();
  ExprPtr unary(bool with_filters);
  ExprPtr primary();
  ExprPtr postfix(ExprPtr operand);
  ExprPtr subscript(ExprPtr operand);
  ExprPtr filters(ExprPtr operand);
  ExprPtr filter(ExprPtr operand);
  ExprPtr test(ExprPtr operand);
  ExprPtr list_until(ExprKind kind, std::string_view close);
  ExprPtr dict();
  void arguments(Expr& call);

  // Statements.
  Block block(Names ends);  // stops at `{% end`, with the name not yet taken
  std::unique_ptr<const Stmt> statement();
  void if_statement(Stmt& stmt);
  void for_statement(Stmt& stmt);
  void set_statement(Stmt& stmt);
  void macro_statement(Stmt& stmt);
  std::vector<std::string> target_names();

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int32_t depth_ = 0;
  int32_t loops_ = 0;
  int32_t scopes_ = 0;  // for, macro and block bodies around this place

  friend struct Nesting;
};

/// One level of recursion of the parser.
struct Nesting {
  explicit Nesting(Parser& owner);
  ~Nesting() { --parser.depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;
  Parser& parser;
};

std::unique_ptr<Expr> node(ExprKind kind, int32_t line, std::string name = {});
/// Appends a child. A chain such as a+a+a+... makes a deep tree without any recursion of the
/// parser, so depth is bounded in the tree too: the interpreter and the destructor recurse over it.
void adopt(Expr& parent, ExprPtr child);

/// Names that the interpreter knows (interpreter side: filters.cpp, tests.cpp).
bool is_known_filter(std::string_view name);
bool is_known_test(std::string_view name);

}  // namespace troupe::jinja
