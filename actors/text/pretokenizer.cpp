#include "actors/text/pretokenizer.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace troupe {
namespace {

constexpr size_t kChunk = 4096;  // bytes a regex sees at once after it gave up on a longer stretch
constexpr size_t kJitStackStart = 32 * 1024;
constexpr size_t kJitStackMax = 4 * 1024 * 1024;
constexpr uint32_t kMatchLimit = 10'000'000;

struct Deleter {
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
  void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
};

struct Piece {
  size_t begin, end;
  bool match;
};

/// Oniguruma's \s is White_Space; PCRE2's also holds U+180E. Outside of classes both \s and \S are
/// spelled out, inside of them \s.
std::string adapt(std::string_view regex) {
  std::string out;
  int depth = 0;
  for (size_t i = 0; i < regex.size(); ++i) {
    const char c = regex[i];
    if (c == '\\' && i + 1 < regex.size()) {
      const char e = regex[++i];
      if (e == 's') {
        out += depth > 0 ? "\\p{Z}\\t-\\r\\x{85}" : "[\\p{Z}\\t-\\r\\x{85}]";
      } else if (e == 'S' && depth == 0) {
        out += "[^\\p{Z}\\t-\\r\\x{85}]";
      } else {
        out += c;
        out += e;
      }
      continue;
    }
    if (c == '[' && depth == 0) ++depth;
    if (c == ']' && depth > 0) --depth;
    out += c;
  }
  return out;
}

size_t character_end(std::string_view text, size_t at) {
  ++at;
  while (at < text.size() && (static_cast<uint8_t>(text[at]) & 0xc0U) == 0x80) ++at;
  return at;
}

/// The largest character boundary within `view` bytes from `at`, at most `end`.
size_t character_floor(std::string_view text, size_t at, size_t view, size_t end) {
  if (end - at <= view) return end;
  size_t limit = at + view;
  while ((static_cast<uint8_t>(text[limit]) & 0xc0U) == 0x80) --limit;
  return limit;
}

/// Joins matches and what lies between them into words.
void apply_behavior(SplitStep::Behavior behavior, std::vector<Piece>& pieces) {
  using Behavior = SplitStep::Behavior;
  if (behavior == Behavior::kIsolated) return;
  std::vector<Piece> out;
  bool previous = false;  // whether the piece before was a match
  for (const Piece& piece : pieces) {
    bool join = false;
    switch (behavior) {
      case Behavior::kIsolated: break;
      case Behavior::kRemoved:
        if (!piece.match) out.push_back(piece);
        continue;
      case Behavior::kMergedWithPrevious: join = piece.match && !previous; break;
      case Behavior::kMergedWithNext: join = !piece.match && previous; break;
      case Behavior::kContiguous: join = piece.match == previous; break;
    }
    if (join && !out.empty()) {
      out.back().end = piece.end;
    } else {
      out.push_back(piece);
    }
    previous = piece.match;
  }
  pieces = std::move(out);
}

}  // namespace

struct Pretokenizer::Regex {
  std::unique_ptr<pcre2_code, Deleter> code;
};

struct Pretokenizer::Step {
  Regex regex;
  SplitStep::Behavior behavior;
  bool invert;
};

namespace {

/// What one call of split() needs; PCRE2's compiled patterns are shared, these are not.
class Matcher {
 public:
  Matcher()
      : context_(pcre2_match_context_create(nullptr)),
        stack_(pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr)),
        data_(pcre2_match_data_create(1, nullptr)) {
    if (!context_ || !data_) throw std::bad_alloc();
    pcre2_set_match_limit(context_.get(), kMatchLimit);
    if (stack_) pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
  }

  /// Appends the pieces of text[begin, end); they cover it without gaps.
  void find(const pcre2_code* code, std::string_view text, size_t begin, size_t end,
            std::vector<Piece>& pieces) {
    size_t view = end - begin;  // how much the regex sees at once
    size_t limit = end;         // of the stretch in view
    size_t unmatched = begin;
    for (size_t at = begin; at < end;) {
      if (at >= limit) limit = character_floor(text, at, view, end);
      // Look-behind must not see the word before: each word is matched as a text of its own.
      const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data() + begin);
      const int rc = pcre2_match(code, subject, limit - begin, at - begin, PCRE2_NO_UTF_CHECK,
                                 data_.get(), context_.get());
      if (rc < 0 && rc != PCRE2_ERROR_NOMATCH && limit - at > kChunk) {
        view = kChunk;
        limit = character_floor(text, at, view, end);
        continue;
      }
      if (rc < 0) {  // nothing there, or even a bounded stretch is too much: it stays one piece
        at = limit;
        continue;
      }
      const size_t* span = pcre2_get_ovector_pointer(data_.get());
      const size_t from = begin + span[0];
      const size_t to = std::max(from, begin + span[1]);
      if (from > unmatched) pieces.push_back({unmatched, from, false});
      if (to > from) pieces.push_back({from, to, true});
      unmatched = to;
      at = to > from ? to : character_end(text, to);  // an empty match cuts, then moves on
    }
    if (unmatched < end) pieces.push_back({unmatched, end, false});
  }

 private:
  std::unique_ptr<pcre2_match_context, Deleter> context_;
  std::unique_ptr<pcre2_jit_stack, Deleter> stack_;
  std::unique_ptr<pcre2_match_data, Deleter> data_;
};

}  // namespace

Pretokenizer::Pretokenizer(std::vector<Step> steps) : steps_(std::move(steps)) {}
Pretokenizer::Pretokenizer(Pretokenizer&&) noexcept = default;
Pretokenizer& Pretokenizer::operator=(Pretokenizer&&) noexcept = default;
Pretokenizer::~Pretokenizer() = default;

Result<Pretokenizer> Pretokenizer::make(const std::vector<SplitStep>& steps) {
  std::vector<Step> compiled;
  for (const SplitStep& step : steps) {
    if (step.regex.find("&&") != std::string::npos) {  // a class intersection in Oniguruma only
      return fail(ErrorCode::kBadModel, "the tokenizer's split regex '" + step.regex +
                                            "' uses &&, which is not supported");
    }
    const std::string regex = adapt(step.regex);
    int error = 0;
    size_t offset = 0;
    // Oniguruma's Ruby syntax: ^ and $ match at lines.
    const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    std::unique_ptr<pcre2_code, Deleter> code(
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(regex.data()), regex.size(), options, &error,
                      &offset, nullptr));
    if (!code) {
      return fail(ErrorCode::kBadModel, "the tokenizer's split regex '" + step.regex +
                                            "' does not compile (PCRE2 error " +
                                            std::to_string(error) + ")");
    }
    // Where JIT is forbidden the interpreter does the same work more slowly.
    static_cast<void>(pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE));
    compiled.push_back({Regex{std::move(code)}, step.behavior, step.invert});
  }
  return Pretokenizer(std::move(compiled));
}

std::vector<std::string_view> Pretokenizer::split(std::string_view text) const {
  std::vector<Piece> pieces;
  if (!text.empty()) pieces.push_back({0, text.size(), false});
  Matcher matcher;
  for (const Step& step : steps_) {
    std::vector<Piece> words;
    std::vector<Piece> found;
    for (const Piece& piece : pieces) {
      found.clear();
      matcher.find(step.regex.code.get(), text, piece.begin, piece.end, found);
      if (step.invert) {
        for (Piece& f : found) f.match = !f.match;
      }
      apply_behavior(step.behavior, found);
      words.insert(words.end(), found.begin(), found.end());
    }
    pieces = std::move(words);
  }
  std::vector<std::string_view> out;
  out.reserve(pieces.size());
  for (const Piece& piece : pieces)
    out.push_back(text.substr(piece.begin, piece.end - piece.begin));
  return out;
}

std::string regex_literal(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (static_cast<uint8_t>(c) < 0x80 &&
        !((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'))) {
      out += '\\';
    }
    out += c;
  }
  return out;
}

}  // namespace troupe
