#include "actors/text/bpe.h"

#include "actors/text/utf8.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <utility>

namespace troupe {
namespace {

/// Spreads what tells pairs apart over all bits (the finaliser of splitmix64).
uint64_t pair_hash(int32_t left, int32_t right) {
  uint64_t x =
      (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32U) | static_cast<uint32_t>(right);
  x = (x ^ (x >> 30U)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27U)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31U);
}

uint64_t text_hash(std::string_view text) { return std::hash<std::string_view>{}(text); }

/// Later candidates are "greater": std::push_heap keeps the first one on top.
struct After {
  bool operator()(const Bpe::Scratch::Candidate& a, const Bpe::Scratch::Candidate& b) const {
    return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
  }
};

/// GPT-2 shows printable Latin-1 bytes as themselves and the other 68 as U+0100, U+0101...
constexpr std::array<int16_t, 0x144> printable_table() {
  std::array<int16_t, 0x144> byte_of{};
  byte_of.fill(-1);
  size_t next = 0x100;
  for (size_t b = 0; b < 256; ++b) {
    const bool shown = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
    byte_of[shown ? b : next++] = static_cast<int16_t>(b);
  }
  return byte_of;
}

}  // namespace

bool bytes_from_printable(std::string_view text, std::string& out) {
  static constexpr std::array<int16_t, 0x144> kByteOf = printable_table();
  out.clear();
  for (size_t i = 0; i < text.size(); ++i) {
    size_t c = static_cast<uint8_t>(text[i]);
    if (c >= 0x80) {  // the whole alphabet lies in one and two byte characters
      if (c < 0xc2 || c > 0xc5 || i + 1 == text.size()) return false;
      c = ((c & 0x1fU) << 6U) | (static_cast<uint8_t>(text[++i]) & 0x3fU);
    }
    if (c >= kByteOf.size() || kByteOf[c] < 0) return false;
    out += static_cast<char>(kByteOf[c]);
  }
  return true;
}

int32_t byte_of_token(std::string_view text) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  const size_t high = kHex.find(text[3]);
  const size_t low = kHex.find(text[4]);
  return high < 16 && low < 16 ? static_cast<int32_t>(high * 16 + low) : -1;
}

Result<Bpe> Bpe::make(const Vocabulary& v, std::vector<std::string> texts) {
  Bpe bpe;
  bpe.texts_ = std::move(texts);
  bpe.unknown_ = v.unknown;
  bpe.byte_level_ = v.byte_level;
  bpe.ignore_merges_ = v.ignore_merges;
  bpe.fuse_unknown_ = v.fuse_unknown;
  bpe.ids_ = HashIndex(v.tokens.size());
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    if (v.outside_bpe[i]) continue;
    if (v.tokens[i].empty()) {
      return fail(ErrorCode::kBadModel, "token " + std::to_string(i) + " is empty");
    }
    if (bpe.find_token(bpe.texts_[i]) < 0) {  // of equal texts the first counts
      bpe.ids_.insert(text_hash(bpe.texts_[i]), static_cast<int32_t>(i));
    }
    bpe.longest_ = std::max(bpe.longest_, bpe.texts_[i].size());
  }
  for (size_t b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    bpe.byte_ids_[b] = v.byte_level ? bpe.find_token(std::string_view(&byte, 1)) : -1;
  }
  if (v.byte_fallback) {
    for (size_t i = 0; i < v.tokens.size(); ++i) {
      const int32_t byte = byte_of_token(v.tokens[i]);
      if (byte >= 0) bpe.byte_ids_[static_cast<size_t>(byte)] = static_cast<int32_t>(i);
    }
  }
  const Status alphabet = bpe.check_alphabet();
  if (!alphabet) return alphabet.error();
  const Status order = v.scores.empty() ? bpe.read_merges(v) : bpe.read_scores(v);
  if (!order) return order.error();
  return bpe;
}

int32_t Bpe::find_token(std::string_view text) const {
  return ids_.find(text_hash(text),
                   [&](int32_t id) { return texts_[static_cast<size_t>(id)] == text; });
}

int32_t Bpe::find_merge(int32_t left, int32_t right) const {
  return ranks_.find(pair_hash(left, right), [&](int32_t rank) {
    const Merge& merge = merges_[static_cast<size_t>(rank)];
    return merge.left == left && merge.right == right;
  });
}

Status Bpe::check_alphabet() const {
  // Published byte-level vocabularies do lack bytes that their training text lacked, so only what
  // every prompt needs is demanded; a byte that is missing is dropped, as the original does.
  for (size_t b = 0x20; b < 0x7f; ++b) {
    if (byte_level_ && byte_ids_[b] < 0) {
      return fail(ErrorCode::kBadModel,
                  "the vocabulary has no token for byte " + std::to_string(b));
    }
  }
  const auto missing = std::count(byte_ids_.begin(), byte_ids_.end(), -1);
  if (!byte_level_ && missing != 0 && (missing != 256 || unknown_ < 0)) {
    return fail(ErrorCode::kBadModel,
                "the vocabulary has neither all <0xNN> byte tokens nor an unknown token");
  }
  return ok_status();
}

Status Bpe::read_merges(const Vocabulary& v) {
  if (v.merges.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max() / 2)) {
    return fail(ErrorCode::kBadModel, "the tokenizer has too many merges");
  }
  merges_.reserve(v.merges.size());
  ranks_ = HashIndex(v.merges.size());
  std::string left_bytes;
  std::string right_bytes;
  for (size_t rank = 0; rank < v.merges.size(); ++rank) {
    const auto& [left_text, right_text] = v.merges[rank];
    bool spelled = !left_text.empty() && !right_text.empty();
    if (byte_level_) {
      spelled = spelled && bytes_from_printable(left_text, left_bytes) &&
                bytes_from_printable(right_text, right_bytes);
    } else {
      left_bytes = left_text;
      right_bytes = right_text;
    }
    const Merge merge{find_token(left_bytes), find_token(right_bytes),
                      find_token(left_bytes + right_bytes)};
    if (!spelled || merge.left < 0 || merge.right < 0 || merge.joined < 0) {
      return fail(ErrorCode::kBadModel, "merge " + std::to_string(rank) + " ('" + left_text +
                                            "' + '" + right_text + "') names an unknown token");
    }
    if (find_merge(merge.left, merge.right) >= 0) {
      return fail(ErrorCode::kBadModel, "merge " + std::to_string(rank) + " ('" + left_text +
                                            "' + '" + right_text + "') is listed twice");
    }
    merges_.push_back(merge);
    ranks_.insert(pair_hash(merge.left, merge.right), static_cast<int32_t>(rank));
  }
  return ok_status();
}

Status Bpe::read_scores(const Vocabulary& v) {
  if (v.scores.size() != v.tokens.size()) {
    return fail(ErrorCode::kBadModel, "the tokenizer has " + std::to_string(v.tokens.size()) +
                                          " tokens but " + std::to_string(v.scores.size()) +
                                          " scores");
  }
  for (const float score : v.scores) {
    if (score != score) return fail(ErrorCode::kBadModel, "a token's score is not a number");
  }
  std::vector<float> order = v.scores;
  std::sort(order.begin(), order.end(), std::greater<>());
  for (const float score : v.scores) {
    const auto at = std::lower_bound(order.begin(), order.end(), score, std::greater<>());
    score_rank_.push_back(static_cast<int32_t>(at - order.begin()));
  }
  return ok_status();
}

void Bpe::push_candidate(std::string_view word, int32_t left, Scratch& scratch) const {
  const auto& a = scratch.symbols[static_cast<size_t>(left)];
  if (a.next < 0) return;
  const auto& b = scratch.symbols[static_cast<size_t>(a.next)];
  const uint32_t length = a.length + b.length;
  if (score_rank_.empty()) {
    if (a.id < 0 || b.id < 0) return;
    const int32_t rank = find_merge(a.id, b.id);
    if (rank < 0) return;
    scratch.heap.push_back({rank, left, merges_[static_cast<size_t>(rank)].joined, length});
  } else {
    if (length > longest_) return;
    const int32_t id = find_token(word.substr(a.begin, length));
    if (id < 0) return;
    scratch.heap.push_back({score_rank_[static_cast<size_t>(id)], left, id, length});
  }
  std::push_heap(scratch.heap.begin(), scratch.heap.end(), After{});
}

void Bpe::encode(std::string_view word, std::vector<int32_t>& out, Scratch& scratch) const {
  if (ignore_merges_) {
    const int32_t id = find_token(word);
    if (id >= 0) {
      out.push_back(id);
      return;
    }
  }
  auto& symbols = scratch.symbols;
  symbols.clear();
  scratch.heap.clear();
  for (size_t at = 0; at < word.size();) {
    size_t length = 1;
    int32_t id = -1;
    if (byte_level_) {
      id = byte_ids_[static_cast<uint8_t>(word[at])];
    } else {
      const Utf8Head head = utf8_head(word.substr(at));
      length = head.length;
      id = find_token(word.substr(at, length));
    }
    // A byte that the vocabulary lacks is not there at all: its neighbours may join.
    if (!byte_level_ || id >= 0) {
      const auto index = static_cast<int32_t>(symbols.size());
      symbols.push_back(
          {static_cast<uint32_t>(at), static_cast<uint32_t>(length), id, index - 1, index + 1});
    }
    at += length;
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;
  for (size_t i = 0; i + 1 < symbols.size(); ++i) {
    push_candidate(word, static_cast<int32_t>(i), scratch);
  }
  // Every join removes a symbol and adds at most two candidates: O(n log n) in all.
  while (!scratch.heap.empty()) {
    const Scratch::Candidate best = scratch.heap.front();
    std::pop_heap(scratch.heap.begin(), scratch.heap.end(), After{});
    scratch.heap.pop_back();
    auto& left = symbols[static_cast<size_t>(best.left)];
    if (left.length == 0 || left.next < 0) continue;
    auto& right = symbols[static_cast<size_t>(left.next)];
    if (left.length + right.length != best.length) continue;  // one of them has grown since
    left.length = best.length;
    left.id = best.id;
    left.next = right.next;
    right.length = 0;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = best.left;
    push_candidate(word, best.left, scratch);
    if (left.previous >= 0) push_candidate(word, left.previous, scratch);
  }
  bool unknown_run = false;
  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next) {
    const auto& symbol = symbols[static_cast<size_t>(i)];
    if (symbol.id >= 0) {
      out.push_back(symbol.id);
      unknown_run = false;
    } else if (!byte_level_ && byte_ids_[0] >= 0) {
      for (const char c : word.substr(symbol.begin, symbol.length)) {
        out.push_back(byte_ids_[static_cast<uint8_t>(c)]);
      }
      unknown_run = false;
    } else if (!(unknown_run && fuse_unknown_)) {
      out.push_back(unknown_);
      unknown_run = true;
    }
  }
}

}  // namespace troupe
