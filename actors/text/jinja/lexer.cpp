#include "actors/text/jinja/lexer.h"

#include "actors/text/jinja/value.h"

#include <algorithm>
#include <array>

namespace troupe::jinja {
namespace {

using Kind = Token::Kind;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

/// Line ends become \n, and the last one is dropped.
std::string normalize(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out.push_back(source[i]);
    } else if (i + 1 == source.size() || source[i + 1] != '\n') {
      out.push_back('\n');
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalize(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      const size_t tag = find_tag();
      text_until(tag);
      if (tag == source_.size()) break;
      const char kind = source_[tag + 1];
      advance(tag + 2);
      if (peek() == '-' || peek() == '+') advance(at_ + 1);
      if (kind == '#') {
        comment();
      } else if (kind == '%' && raw_begin()) {
        raw();
      } else {
        push(kind == '{' ? Kind::kPrintBegin : Kind::kBlockBegin, {});
        expression(kind == '{' ? "}}" : "%}");
      }
    }
    push(Kind::kEnd, "the end of the template");
    return std::move(tokens_);
  }

 private:
  [[nodiscard]] char peek(size_t ahead = 0) const {
    return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0';
  }
  [[nodiscard]] bool next_is(std::string_view text) const {
    return std::string_view(source_).substr(at_, text.size()) == text;
  }
  void advance(size_t to) {
    to = std::min(to, source_.size());
    line_ += static_cast<int32_t>(std::count(source_.begin() + static_cast<ptrdiff_t>(at_),
                                             source_.begin() + static_cast<ptrdiff_t>(to), '\n'));
    at_ = to;
  }
  void skip_space() { advance(at_ + strip_left(std::string_view(source_).substr(at_), nullptr)); }
  void push(Kind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }

  [[nodiscard]] size_t find_tag() const {
    for (size_t at = source_.find('{', at_); at != std::string::npos;
         at = source_.find('{', at + 1)) {
      const char c = at + 1 < source_.size() ? source_[at + 1] : '\0';
      if (c == '{' || c == '%' || c == '#') return at;
    }
    return source_.size();
  }

  /// The text before a tag, shortened by what the tag's start says: `-` strips all white space,
  /// else a block or comment strips the blanks between the line's start and itself (not with `+`).
  [[nodiscard]] std::string_view before_tag(size_t tag) const {
    const auto text = std::string_view(source_).substr(at_, tag - at_);
    if (tag == source_.size()) return text;
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    if (sign == '-') return text.substr(0, strip_right(text, nullptr));
    if (sign == '+' || source_[tag + 1] == '{') return text;
    const size_t newline = text.rfind('\n');
    if (newline == std::string_view::npos && !line_start_) return text;
    const size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
    const auto blank = text.substr(begin);
    return strip_left(blank, nullptr) == blank.size() ? text.substr(0, begin) : text;
  }

  void text_until(size_t tag) {
    const auto text = before_tag(tag);
    if (!text.empty()) push(Kind::kText, std::string(text));
    advance(tag);
  }

  /// Behind a tag: `-` eats all white space, a block or comment eats one line end (not with `+`).
  void after_tag(char sign, bool trims_line) {
    line_start_ = false;
    const size_t begin = at_;
    if (sign == '-') {
      skip_space();
    } else if (sign != '+' && trims_line && peek() == '\n') {
      advance(at_ + 1);
    }
    line_start_ = at_ > begin && source_[at_ - 1] == '\n';
  }

  void comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) throw Failure(line_, "a comment is not closed");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    advance(end + 2);
    after_tag(sign, true);
  }

  bool raw_begin() {
    size_t at = at_;
    const std::string_view all(source_);
    at += strip_left(all.substr(at), nullptr);
    if (all.substr(at, 3) != "raw") return false;
    at += 3;
    at += strip_left(all.substr(at), nullptr);
    const char sign = all.substr(at, 1) == "-" ? '-' : '\0';
    if (sign != '\0') ++at;
    if (all.substr(at, 2) != "%}") return false;
    advance(at + 2);
    after_tag(sign, true);
    return true;
  }

  void raw() {
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos;
         tag = source_.find("{%", tag + 1)) {
      size_t at = tag + 2;
      if (at < source_.size() && (source_[at] == '-' || source_[at] == '+')) ++at;
      const std::string_view all(source_);
      at += strip_left(all.substr(at), nullptr);
      if (all.substr(at, 6) != "endraw") continue;
      at += 6;
      at += strip_left(all.substr(at), nullptr);
      const char sign = at < all.size() && (all[at] == '-' || all[at] == '+') ? all[at] : '\0';
      if (sign != '\0') ++at;
      if (all.substr(at, 2) != "%}") continue;
      text_until(tag);
      advance(at + 2);
      after_tag(sign, true);
      return;
    }
    throw Failure(line_, "a raw block is not closed");
  }

  void expression(std::string_view close) {
    const int32_t opened = line_;
    std::string brackets;  // so that the }} of a dict inside {{ }} does not end the tag
    while (true) {
      skip_space();
      if (at_ == source_.size()) throw Failure(opened, "a tag is not closed");
      const bool sign = peek() == '-' || (peek() == '+' && close == "%}");
      if (brackets.empty() && std::string_view(source_).substr(at_ + (sign ? 1 : 0), 2) == close) {
        const char mark = sign ? peek() : '\0';
        push(close == "}}" ? Kind::kPrintEnd : Kind::kBlockEnd, std::string(close));
        advance(at_ + (sign ? 3 : 2));
        after_tag(mark, close == "%}");
        return;
      }
      if (is_name_start(peek())) {
        name();
      } else if (is_digit(peek())) {
        number();
      } else if (peek() == '"' || peek() == '\'') {
        string();
      } else {
        symbol(brackets);
      }
    }
  }

  void name() {
    size_t end = at_;
    while (end < source_.size() && (is_name_start(source_[end]) || is_digit(source_[end]))) ++end;
    push(Kind::kName, source_.substr(at_, end - at_));
    advance(end);
  }

  void number() {
    std::string digits;
    const auto take = [&] {
      for (; is_digit(peek()) || (peek() == '_' && is_digit(peek(1))); advance(at_ + 1)) {
        if (peek() != '_') digits.push_back(peek());
      }
    };
    take();
    bool integer = true;
    if (peek() == '.' && is_digit(peek(1))) {
      integer = false;
      digits.push_back('.');
      advance(at_ + 1);
      take();
    }
    const size_t sign = peek(1) == '-' || peek(1) == '+' ? 1 : 0;
    if ((peek() == 'e' || peek() == 'E') && is_digit(peek(1 + sign))) {
      integer = false;
      digits += source_.substr(at_, 1 + sign);
      advance(at_ + 1 + sign);
      take();
    }
    push(integer ? Kind::kInteger : Kind::kFloat, digits);
  }

  char32_t hex(size_t digits) {
    char32_t value = 0;
    for (size_t i = 0; i < digits; ++i, advance(at_ + 1)) {
      const char c = peek();
      const int digit = is_digit(c)              ? c - '0'
                        : (c >= 'a' && c <= 'f') ? c - 'a' + 10
                        : (c >= 'A' && c <= 'F') ? c - 'A' + 10
                                                 : -1;
      if (digit < 0) throw Failure(line_, "a string has a broken escape");
      value = value * 16 + static_cast<char32_t>(digit);
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
      throw Failure(line_, "a string escapes something that is not a character");
    }
    return value;
  }

  void string() {
    const int32_t opened = line_;
    const char quote = peek();
    std::string value;
    for (advance(at_ + 1); peek() != quote || at_ == source_.size();) {
      if (at_ == source_.size()) throw Failure(opened, "a string is not closed");
      const char c = peek();
      advance(at_ + 1);
      if (c != '\\') {
        value.push_back(c);
        continue;
      }
      const char escaped = peek();
      advance(at_ + 1);
      constexpr std::string_view kNames = "n\nt\tr\rb\bf\fv\va\a\\\\''\"\"";
      const size_t known = kNames.find(escaped);
      if (escaped == 'x' || escaped == 'u' || escaped == 'U') {
        append_utf8(value, hex(escaped == 'x' ? 2 : escaped == 'u' ? 4 : 8));
      } else if (escaped == '\n') {
        // an escaped line end is nothing
      } else if (known != std::string_view::npos && known % 2 == 0) {
        value.push_back(kNames[known + 1]);
      } else if (escaped == '0' && !is_digit(peek())) {
        value.push_back('\0');
      } else if (is_digit(escaped) && escaped < '8') {
        throw Failure(line_, "octal escapes are not supported");
      } else {
        value.push_back('\\');
        value.push_back(escaped);
      }
    }
    tokens_.push_back({Kind::kString, opened, std::move(value)});
    advance(at_ + 1);
  }

  void symbol(std::string& brackets) {
    constexpr std::array<std::string_view, 25> kSymbols = {
        "==", "!=", "<=", ">=", "//", "**", "+", "-", "*", "/", "%", "~", "<",
        ">",  "=",  "(",  ")",  "[",  "]",  "{", "}", ".", ",", ":", "|"};
    for (const std::string_view symbol : kSymbols) {
      if (!next_is(symbol)) continue;
      const char c = symbol.front();
      if (c == '(' || c == '[' || c == '{')
        brackets.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
      if (c == ')' || c == ']' || c == '}') {
        if (brackets.empty() || brackets.back() != c) {
          throw Failure(line_, std::string("unexpected '") + c + "'");
        }
        brackets.pop_back();
      }
      push(Kind::kOperator, std::string(symbol));
      advance(at_ + symbol.size());
      return;
    }
    throw Failure(line_, "unexpected character in a tag");
  }

  std::string source_;
  size_t at_ = 0;
  int32_t line_ = 1;
  bool line_start_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace troupe::jinja
