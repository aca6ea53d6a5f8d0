#pragma once

#include "actors/text/added_tokens.h"
#include "actors/text/bpe.h"
#include "actors/text/pretokenizer.h"
#include "actors/text/tokenizer.h"
#include "actors/text/vocabulary.h"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace troupe {

/// Added tokens are cut out, what is left is normalised, split into words, and each word goes
/// through BPE. Built by make_tokenizer().
class BpeTokenizer final : public Tokenizer {
 public:
  static Result<std::shared_ptr<const Tokenizer>> make(Vocabulary v);

  [[nodiscard]] std::vector<int32_t> encode_pieces(std::span<const TextPiece> pieces,
                                                   bool add_special) const override;
  [[nodiscard]] std::string_view bytes(int32_t token) const override;
  [[nodiscard]] bool is_special(int32_t token) const override;
  [[nodiscard]] int32_t vocab() const override { return static_cast<int32_t>(special_.size()); }
  [[nodiscard]] int32_t bos() const override { return bos_; }
  [[nodiscard]] int32_t eos() const override { return eos_; }
  [[nodiscard]] bool strips_leading_space() const override { return strip_leading_space_; }
  [[nodiscard]] int32_t max_token_bytes() const override { return max_token_bytes_; }
  [[nodiscard]] const std::string& chat_template() const override { return chat_template_; }

 private:
  BpeTokenizer(Vocabulary v, std::vector<std::string> bytes, Bpe bpe, Pretokenizer pretokenizer);
  void encode_section(std::string_view text, bool at_start, std::vector<int32_t>& out,
                      Bpe::Scratch& scratch) const;
  void encode_valid(std::string_view text, bool at_start, std::vector<int32_t>& out,
                    Bpe::Scratch& scratch) const;

  Bpe bpe_;
  Pretokenizer pretokenizer_;
  AddedTokens added_;
  std::vector<NormalizerStep> normalizer_;
  std::vector<std::string> bytes_;  // by id
  std::vector<bool> special_;       // by id
  std::vector<int32_t> prefix_, suffix_;
  int32_t bos_, eos_;
  int32_t max_token_bytes_ = 1;
  bool strip_leading_space_;
  std::string chat_template_;
};

}  // namespace troupe
