#include "actors/text/bpe_tokenizer.h"

#include "actors/text/normalizer.h"
#include "actors/text/utf8.h"

#include <algorithm>
#include <utility>

namespace troupe {
namespace {

constexpr size_t kMaxSection = size_t{1} << 26U;         // bytes; keeps indexes within 32 bits
constexpr std::string_view kSpaceMark = "\xe2\x96\x81";  // U+2581, SentencePiece's space

Status check_ids(const Vocabulary& v) {
  const auto known = [&](int32_t id) {
    return id >= 0 && static_cast<size_t>(id) < v.tokens.size();
  };
  const auto bad = [&](const std::string& what, int32_t id) {
    return fail(ErrorCode::kBadModel, what + " is token " + std::to_string(id) + " of " +
                                          std::to_string(v.tokens.size()));
  };
  if (v.tokens.empty()) return fail(ErrorCode::kBadModel, "the vocabulary is empty");
  if (v.tokens.size() > (size_t{1} << 24U)) {
    return fail(ErrorCode::kBadModel, "the vocabulary has more than 16 million tokens");
  }
  if (v.outside_bpe.size() != v.tokens.size()) {
    return fail(ErrorCode::kBadModel, "the vocabulary's token types are incomplete");
  }
  for (const int32_t id : v.prefix) {
    if (!known(id)) return bad("the token before a prompt", id);
  }
  for (const int32_t id : v.suffix) {
    if (!known(id)) return bad("the token after a prompt", id);
  }
  if (v.bos != -1 && !known(v.bos)) return bad("bos", v.bos);
  if (v.eos != -1 && !known(v.eos)) return bad("eos", v.eos);
  if (v.unknown != -1 && !known(v.unknown)) return bad("the unknown token", v.unknown);
  for (const AddedToken& token : v.added) {
    if (!known(token.id)) return bad("added token '" + token.text + "'", token.id);
    if (token.text.empty()) return bad("an added token without text", token.id);
    if (v.tokens[static_cast<size_t>(token.id)] != token.text) {
      return bad("added token '" + token.text + "' contradicts the vocabulary; it", token.id);
    }
  }
  return ok_status();
}

/// Every token in two forms: what BPE joins, and what it means in the output.
struct TokenTexts {
  std::vector<std::string> joined;
  std::vector<std::string> meant;
};

/// Also takes the tokens that BPE must not produce out of its reach.
TokenTexts token_texts(Vocabulary& v) {
  std::vector<bool> literal(v.tokens.size());
  for (const AddedToken& token : v.added) {
    literal[static_cast<size_t>(token.id)] = true;
    if (token.special) v.outside_bpe[static_cast<size_t>(token.id)] = true;
  }
  TokenTexts texts{std::vector<std::string>(v.tokens.size()),
                   std::vector<std::string>(v.tokens.size())};
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    const std::string& text = v.tokens[i];
    std::string& meant = texts.meant[i];
    if (v.byte_level) {
      // A text outside of the alphabet was added by hand and stands for itself.
      const bool spelled = bytes_from_printable(text, texts.joined[i]);
      if (!spelled) v.outside_bpe[i] = true;
      meant = !spelled || literal[i] ? text : texts.joined[i];
      continue;
    }
    texts.joined[i] = text;
    const int32_t byte = v.byte_fallback ? byte_of_token(text) : -1;
    if (byte >= 0) {
      v.outside_bpe[i] = true;
      meant = static_cast<char>(byte);
    } else if (literal[i]) {
      meant = text;
    } else {
      size_t at = 0;
      for (size_t hit = text.find(kSpaceMark); hit != std::string::npos;
           hit = text.find(kSpaceMark, at)) {
        meant.append(text, at, hit - at).append(" ");
        at = hit + kSpaceMark.size();
      }
      meant.append(text, at);
    }
  }
  return texts;
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> make_tokenizer(Vocabulary vocabulary) {
  return BpeTokenizer::make(std::move(vocabulary));
}

Result<std::shared_ptr<const Tokenizer>> BpeTokenizer::make(Vocabulary v) {
  if (v.outside_bpe.empty()) v.outside_bpe.resize(v.tokens.size());
  const Status ids = check_ids(v);
  if (!ids) return ids.error();
  TokenTexts texts = token_texts(v);
  Result<Bpe> bpe = Bpe::make(v, std::move(texts.joined));
  if (!bpe) return bpe.error();
  Result<Pretokenizer> pretokenizer = Pretokenizer::make(v.splits);
  if (!pretokenizer) return pretokenizer.error();
  return std::shared_ptr<const Tokenizer>(new BpeTokenizer(std::move(v), std::move(texts.meant),
                                                           std::move(bpe).value(),
                                                           std::move(pretokenizer).value()));
}

BpeTokenizer::BpeTokenizer(Vocabulary v, std::vector<std::string> bytes, Bpe bpe,
                           Pretokenizer pretokenizer)
    : bpe_(std::move(bpe)),
      pretokenizer_(std::move(pretokenizer)),
      normalizer_(std::move(v.normalizer)),
      bytes_(std::move(bytes)),
      special_(bytes_.size()),
      prefix_(std::move(v.prefix)),
      suffix_(std::move(v.suffix)),
      bos_(v.bos),
      eos_(v.eos),
      strip_leading_space_(v.strip_leading_space),
      chat_template_(std::move(v.chat_template)) {
  for (const AddedToken& token : v.added) {
    if (token.special) special_[static_cast<size_t>(token.id)] = true;
  }
  for (const std::string& b : bytes_) {
    max_token_bytes_ = std::max(max_token_bytes_, static_cast<int32_t>(b.size()));
  }
  added_ = AddedTokens(std::move(v.added));
}

std::string_view BpeTokenizer::bytes(int32_t token) const {
  if (token < 0 || static_cast<size_t>(token) >= bytes_.size()) return {};
  return bytes_[static_cast<size_t>(token)];
}

bool BpeTokenizer::is_special(int32_t token) const {
  return token >= 0 && static_cast<size_t>(token) < special_.size() &&
         special_[static_cast<size_t>(token)];
}

std::vector<int32_t> BpeTokenizer::encode_pieces(std::span<const TextPiece> pieces,
                                                 bool add_special) const {
  std::string joined;
  std::vector<TrustedRange> trusted;
  for (const TextPiece& piece : pieces) {
    const size_t begin = joined.size();
    joined += piece.text;
    if (!piece.parse_special || piece.text.empty()) continue;
    if (!trusted.empty() && trusted.back().end == begin) {
      trusted.back().end = joined.size();
    } else {
      trusted.push_back({begin, joined.size()});
    }
  }
  std::vector<int32_t> out;
  if (add_special) out = prefix_;
  Bpe::Scratch scratch;
  for (const AddedTokens::Section& section : added_.split(joined, trusted)) {
    if (section.token >= 0) {
      out.push_back(section.token);
      continue;
    }
    const auto text = std::string_view(joined).substr(section.begin, section.end - section.begin);
    encode_section(text, section.begin == 0, out, scratch);
  }
  if (add_special) out.insert(out.end(), suffix_.begin(), suffix_.end());
  return out;
}

void BpeTokenizer::encode_section(std::string_view text, bool at_start, std::vector<int32_t>& out,
                                  Bpe::Scratch& scratch) const {
  // Callers refuse invalid UTF-8; should some arrive, its bytes go around the regexes.
  while (!text.empty()) {
    const size_t valid = utf8_valid_prefix(text.substr(0, kMaxSection));
    if (valid > 0) {
      encode_valid(text.substr(0, valid), at_start, out, scratch);
    } else {
      bpe_.encode(text.substr(0, 1), out, scratch);
    }
    text.remove_prefix(std::max(valid, size_t{1}));
    at_start = false;
  }
}

void BpeTokenizer::encode_valid(std::string_view text, bool at_start, std::vector<int32_t>& out,
                                Bpe::Scratch& scratch) const {
  const std::string normal = normalize(normalizer_, text, at_start);
  for (const std::string_view word : pretokenizer_.split(normal)) bpe_.encode(word, out, scratch);
}

}  // namespace troupe
