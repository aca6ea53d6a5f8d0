#pragma once

#include "actors/text/hash_index.h"
#include "actors/text/vocabulary.h"
#include "gpu/base/result.h"

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace troupe {

/// Byte pair encoding of one word (Sennrich et al. 2016): start from bytes or characters, join the
/// best pair again and again. What is best comes from the list of merges, or from the scores of the
/// joined tokens when there is no list (SentencePiece). O(n log n) for any word.
class Bpe {
 public:
  /// `texts`: what words are made of, by id (for byte-level the bytes, not their printable names).
  /// Takes from `v` merges, scores, outside_bpe (one entry a token) and flags.
  /// kBadModel as make_tokenizer says.
  static Result<Bpe> make(const Vocabulary& v, std::vector<std::string> texts);

  /// Buffers that calls of one thread reuse.
  struct Scratch {
    struct Symbol {
      uint32_t begin, length;  // bytes of the word; length 0 = joined into its left neighbour
      int32_t id;              // -1 = not in the vocabulary
      int32_t previous, next;  // -1 = none
    };
    struct Candidate {
      int32_t rank;  // smaller first
      int32_t left;  // index of the left symbol
      int32_t id;    // what the two become
      uint32_t length;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };
  /// Appends the tokens of `word` (below 2 GiB).
  void encode(std::string_view word, std::vector<int32_t>& out, Scratch& scratch) const;

 private:
  struct Merge {
    int32_t left, right;  // ids
    int32_t joined;
  };
  Bpe() = default;
  Status read_merges(const Vocabulary& v);
  Status read_scores(const Vocabulary& v);
  Status check_alphabet() const;
  void push_candidate(std::string_view word, int32_t left, Scratch& scratch) const;

  [[nodiscard]] int32_t find_token(std::string_view text) const;        // -1 = none
  [[nodiscard]] int32_t find_merge(int32_t left, int32_t right) const;  // rank, -1 = none

  std::vector<std::string> texts_;
  HashIndex ids_;                        // text -> id
  std::vector<Merge> merges_;            // by rank
  HashIndex ranks_;                      // left id, right id -> rank
  std::vector<int32_t> score_rank_;      // by id; empty when merges_ decide
  std::array<int32_t, 256> byte_ids_{};  // "<0x0A>" or the byte's own token, or -1
  size_t longest_ = 0;
  int32_t unknown_ = -1;
  bool byte_level_ = false;
  bool ignore_merges_ = false;
  bool fuse_unknown_ = false;
};

/// GPT-2's printable alphabet: the bytes that `text` spells, or false when it holds anything else.
bool bytes_from_printable(std::string_view text, std::string& out);

/// The value of "<0x0A>", -1 when `text` is no such name.
[[nodiscard]] int32_t byte_of_token(std::string_view text);

}  // namespace troupe
