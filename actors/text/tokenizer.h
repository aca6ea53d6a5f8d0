#pragma once

#include "gpu/base/result.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace troupe {

class Checkpoint;

/// Text <-> token ids: byte-level BPE with the model's own pre-tokenizer, or SentencePiece-style
/// BPE with byte fallback. Read from GGUF metadata or tokenizer.json. Immutable; any thread.
class Tokenizer {
 public:
  /// kBadModel when the tokenizer is missing, inconsistent or of an unsupported kind.
  static Result<std::shared_ptr<const Tokenizer>> load(const Checkpoint& checkpoint);
  virtual ~Tokenizer() = default;

  struct EncodeOptions {
    bool add_special = true;     // bos / eos as the model wants them around a prompt
    bool parse_special = false;  // "<|im_end|>" in the text becomes its control token; for text
                                 // from the chat template only, never for a user's own words
  };
  /// `text` is valid UTF-8. Time linear in its length (up to log factors) for any input.
  [[nodiscard]] std::vector<int32_t> encode(std::string_view text,
                                            const EncodeOptions& options) const {
    const TextPiece piece{text, options.parse_special};
    return encode_pieces(std::span(&piece, 1), options.add_special);
  }

  /// A stretch of a prompt, valid UTF-8 on its own.
  struct TextPiece {
    std::string_view text;
    bool parse_special = false;
  };
  /// Encodes the concatenation of `pieces` as one text, so that words may span pieces; a control
  /// token is recognised only where all of it lies in pieces with parse_special.
  [[nodiscard]] virtual std::vector<int32_t> encode_pieces(std::span<const TextPiece> pieces,
                                                           bool add_special) const = 0;
  /// The bytes this token stands for, maybe half a character; control tokens give their text. Empty
  /// for ids outside of the vocabulary (models pad their embedding).
  [[nodiscard]] virtual std::string_view bytes(int32_t token) const = 0;
  /// A control token (bos, eos, <|im_start|>...), left out of text when special tokens are skipped.
  [[nodiscard]] virtual bool is_special(int32_t token) const = 0;
  [[nodiscard]] virtual int32_t vocab() const = 0;
  [[nodiscard]] virtual int32_t bos() const = 0;  // -1 = none
  [[nodiscard]] virtual int32_t eos() const = 0;  // -1 = none
  /// SentencePiece: the first piece's leading space is not part of the text.
  [[nodiscard]] virtual bool strips_leading_space() const = 0;
  /// Longest token in bytes, for a length check before encoding.
  [[nodiscard]] virtual int32_t max_token_bytes() const = 0;
  /// The model's Jinja chat template, empty if it has none.
  [[nodiscard]] virtual const std::string& chat_template() const = 0;
};

}  // namespace troupe
