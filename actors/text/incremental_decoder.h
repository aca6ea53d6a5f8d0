#pragma once

#include <cstdint>
#include <string>

namespace troupe {

class Tokenizer;

/// Token ids -> text, a token at a time: never gives out half a UTF-8 character. Bytes that can
/// never become one turn into U+FFFD. The concatenation equals decoding everything at once.
class IncrementalDecoder {
 public:
  IncrementalDecoder(const Tokenizer& tokenizer, bool skip_special);
  /// The text that became complete with this token.
  std::string push(int32_t token);
  /// What is left; an unfinished character becomes U+FFFD.
  std::string flush();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  bool first_ = true;
  std::string pending_;  // the bytes of an unfinished character, at most 3
};

}  // namespace troupe
