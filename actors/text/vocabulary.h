#pragma once

#include "gpu/base/result.h"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe {

class Tokenizer;

/// A token with its own text, cut out before anything else looks at the prompt.
struct AddedToken {
  int32_t id = 0;
  std::string text;
  bool special = false;  // bos, <|im_start|>...: hidden when special tokens are skipped
  bool lstrip = false;   // swallows white space to its left / right
  bool rstrip = false;
  bool single_word = false;  // not inside a word
};

/// One change to a stretch of text before it is split.
struct NormalizerStep {
  enum class Kind { kNfc, kPrepend, kReplace };
  Kind kind = Kind::kNfc;
  std::string pattern;         // kReplace: literal text
  std::string content;         // kPrepend, kReplace
  bool only_at_start = false;  // kPrepend: only where the whole prompt begins
  bool unless_there = false;   // kPrepend: not when the text begins with it already
};

/// One way to cut a stretch of text into words; steps apply one after the other to every word.
struct SplitStep {
  enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
  std::string regex;  // Oniguruma as published tokenizers use it, a subset of PCRE2's
  Behavior behavior = Behavior::kIsolated;
  bool invert = false;  // the regex describes what lies between
};

/// A tokenizer as a file describes it, before anything is checked. GGUF and tokenizer.json both
/// come down to this.
struct Vocabulary {
  std::vector<std::string> tokens;  // as in the file; empty = a hole in the numbering
  std::vector<bool> outside_bpe;    // control, unused...: never the result of a merge; may be empty
  std::vector<float> scores;        // SentencePiece without merges: higher joins first
  std::vector<std::pair<std::string, std::string>> merges;  // best first
  std::vector<AddedToken> added;
  std::vector<NormalizerStep> normalizer;
  std::vector<SplitStep> splits;
  std::vector<int32_t> prefix, suffix;  // what add_special puts around a prompt
  bool byte_level = false;              // token texts in GPT-2's printable alphabet for bytes
  bool byte_fallback = false;           // "<0x0A>" tokens stand for what the vocabulary lacks
  bool ignore_merges = false;           // a word that is a token needs no merging
  bool fuse_unknown = false;
  bool strip_leading_space = false;
  int32_t unknown = -1;
  int32_t bos = -1;
  int32_t eos = -1;
  std::string chat_template;
};

/// Checks everything and builds the tokenizer. kBadModel for ids out of range, merges of unknown
/// tokens, empty tokens that take part in merging, a regex that does not compile, an alphabet that
/// cannot spell plain ASCII text.
Result<std::shared_ptr<const Tokenizer>> make_tokenizer(Vocabulary vocabulary);

}  // namespace troupe
