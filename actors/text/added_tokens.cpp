#include "actors/text/added_tokens.h"

#include <utility>

namespace troupe {
namespace {

int32_t find_child(const std::vector<std::pair<char, int32_t>>& next, char c) {
  for (const auto& [key, node] : next) {
    if (key == c) return node;
  }
  return -1;
}

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         (c & 0x80) != 0;
}

bool looks_like_control(std::string_view text) {
  return text.starts_with("<|") && text.ends_with("|>");
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)), nodes_(1) {
  for (size_t t = 0; t < tokens_.size(); ++t) {
    guarded_.push_back(tokens_[t].special || looks_like_control(tokens_[t].text));
    int32_t node = 0;
    for (const char c : tokens_[t].text) {
      int32_t next = find_child(nodes_[static_cast<size_t>(node)].next, c);
      if (next < 0) {
        next = static_cast<int32_t>(nodes_.size());
        nodes_[static_cast<size_t>(node)].next.emplace_back(c, next);
        nodes_.emplace_back();
      }
      node = next;
    }
    nodes_[static_cast<size_t>(node)].token = static_cast<int32_t>(t);
  }
}

int32_t AddedTokens::longest_at(std::string_view text, size_t at, size_t trusted_end) const {
  int32_t best = -1;
  int32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    node = find_child(nodes_[static_cast<size_t>(node)].next, text[i]);
    if (node < 0) break;
    const int32_t token = nodes_[static_cast<size_t>(node)].token;
    if (token < 0) continue;
    const auto t = static_cast<size_t>(token);
    if (guarded_[t] && i + 1 > trusted_end) continue;
    const bool inside_word =
        (at > 0 && is_word(text[at - 1])) || (i + 1 < text.size() && is_word(text[i + 1]));
    if (tokens_[t].single_word && inside_word) continue;
    best = token;
  }
  return best;
}

std::vector<AddedTokens::Section> AddedTokens::split(
    std::string_view text, const std::vector<TrustedRange>& trusted) const {
  std::vector<Section> sections;
  size_t plain = 0;  // where the ordinary stretch began
  size_t range = 0;
  for (size_t at = 0; at < text.size();) {
    while (range < trusted.size() && trusted[range].end <= at) ++range;
    const bool inside = range < trusted.size() && trusted[range].begin <= at;
    const int32_t found = longest_at(text, at, inside ? trusted[range].end : 0);
    if (found < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(found)];
    size_t begin = at;
    size_t end = at + token.text.size();
    while (token.lstrip && begin > plain && is_space(text[begin - 1])) --begin;
    while (token.rstrip && end < text.size() && is_space(text[end])) ++end;
    if (begin > plain) sections.push_back({plain, begin, -1});
    sections.push_back({begin, end, token.id});
    plain = at = end;
  }
  if (plain < text.size()) sections.push_back({plain, text.size(), -1});
  return sections;
}

}  // namespace troupe
