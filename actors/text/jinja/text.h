#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::jinja {

/// Who wrote a character: the template (and the model's own bos/eos), or a message.
enum class Origin : uint8_t { kTemplate, kMessage };

/// A UTF-8 string that remembers the origin of each of its characters. Every string operation of
/// the interpreter is made of append() and slice(), so that no operation can lose an origin.
class Text {
 public:
  struct Run {
    size_t end = 0;  // byte offset behind the run
    Origin origin = Origin::kTemplate;
  };

  Text() = default;
  Text(std::string_view bytes, Origin origin) { append(bytes, origin); }

  void append(std::string_view bytes, Origin origin);
  void append(const Text& other) { append(other, 0, other.size()); }
  /// Bytes [begin, end) of `other`, which must not be this object.
  void append(const Text& other, size_t begin, size_t end);
  [[nodiscard]] Text slice(size_t begin, size_t end) const;

  [[nodiscard]] const std::string& bytes() const { return bytes_; }
  [[nodiscard]] size_t size() const { return bytes_.size(); }
  [[nodiscard]] bool empty() const { return bytes_.empty(); }
  /// Adjacent runs differ in origin.
  [[nodiscard]] const std::vector<Run>& runs() const { return runs_; }

 private:
  std::string bytes_;
  std::vector<Run> runs_;
};

/// The code point that starts at `at`, and its length in bytes. Malformed bytes count as one each.
struct CodePoint {
  char32_t value = 0;
  size_t bytes = 1;
};
CodePoint code_point_at(std::string_view text, size_t at);
void append_utf8(std::string& out, char32_t code_point);
bool is_valid_utf8(std::string_view text);
/// Number of code points.
size_t length(std::string_view text);

/// Python's str.isspace().
bool is_space(char32_t code_point);
/// Python's str.isprintable().
bool is_printable(char32_t code_point);
/// Offset behind the leading / of the trailing characters that are in `set`, or white space when
/// `set` is null.
size_t strip_left(std::string_view text, const std::string* set);
size_t strip_right(std::string_view text, const std::string* set);

enum class Case { kUpper, kLower, kTitle, kCapitalize };
/// Changes the case, keeps the origins.
Text change_case(const Text& text, Case mode);

/// Every `from` becomes `to`, at most `count` times (negative: no limit).
Text replace(const Text& text, std::string_view from, const Text& to, int64_t count);

}  // namespace troupe::jinja
