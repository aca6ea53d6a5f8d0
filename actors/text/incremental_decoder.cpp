#include "actors/text/incremental_decoder.h"

#include "actors/text/tokenizer.h"
#include "actors/text/utf8.h"

#include <string_view>

namespace troupe {

IncrementalDecoder::IncrementalDecoder(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special) {}

std::string IncrementalDecoder::push(int32_t token) {
  if (skip_special_ && tokenizer_.is_special(token)) return {};
  std::string_view bytes = tokenizer_.bytes(token);
  if (first_ && !bytes.empty()) {
    first_ = false;
    if (tokenizer_.strips_leading_space() && bytes.front() == ' ') bytes.remove_prefix(1);
  }
  pending_ += bytes;
  std::string text;
  utf8_take_complete(pending_, text);
  return text;
}

std::string IncrementalDecoder::flush() {
  if (pending_.empty()) return {};
  pending_.clear();
  return "\xef\xbf\xbd";
}

}  // namespace troupe
