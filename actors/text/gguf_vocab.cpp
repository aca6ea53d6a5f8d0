#include "actors/text/gguf_vocab.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>
#include <utility>

namespace troupe {
namespace {

using Metadata = std::map<std::string, GgufValue, std::less<>>;

constexpr std::string_view kDigit = R"(\p{N})";
constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
                                    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// What a value of `tokenizer.ggml.pre` stands for.
struct Pre {
  std::string_view name;
  std::array<std::string_view, 2> regexes;  // one after the other; empty = none
  bool nfc = false;
  bool ignore_merges = false;
  bool bos_by_default = false;
};
constexpr Pre kPres[] = {
    {"default", {kGpt2}},
    {"gpt-2", {kGpt2}},
    {"smollm", {kDigit, kGpt2}},
    {"starcoder", {kDigit, kGpt2}},
    {"llama-bpe", {kLlama3}, false, true, true},
    {"llama3", {kLlama3}, false, true, true},
    {"llama-v3", {kLlama3}, false, true, true},
    {"qwen2", {kQwen2}, true},
    {"deepseek-r1-qwen", {kQwen2}, true},
};

// `tokenizer.ggml.token_type`
constexpr int64_t kNormal = 1;
constexpr int64_t kUnknown = 2;
constexpr int64_t kControl = 3;
constexpr int64_t kUserDefined = 4;
constexpr int64_t kByte = 6;

template <class T>
const T* get(const Metadata& metadata, std::string_view key) {
  const auto it = metadata.find(key);
  return it == metadata.end() ? nullptr : std::get_if<T>(&it->second);
}

bool flag(const Metadata& metadata, std::string_view key, bool otherwise) {
  const bool* value = get<bool>(metadata, key);
  return value == nullptr ? otherwise : *value;
}

Error bad(const std::string& what) { return fail(ErrorCode::kBadModel, "GGUF tokenizer: " + what); }

/// An id under `key`; -1 when absent.
Result<int32_t> token_id(const Metadata& metadata, std::string_view key, size_t vocab) {
  const int64_t* value = get<int64_t>(metadata, key);
  if (value == nullptr) return -1;
  if (*value < 0 || static_cast<uint64_t>(*value) >= vocab) {
    return bad(std::string(key) + " is " + std::to_string(*value) + ", the vocabulary has " +
               std::to_string(vocab) + " tokens");
  }
  return static_cast<int32_t>(*value);
}

Status read_byte_level(const Metadata& metadata, Vocabulary& v, bool& add_bos) {
  v.byte_level = true;
  v.unknown = -1;  // a byte that the vocabulary lacks is dropped
  const std::string* name = get<std::string>(metadata, "tokenizer.ggml.pre");
  const std::string_view wanted = name == nullptr ? "default" : std::string_view(*name);
  const Pre* pre = std::find_if(std::begin(kPres), std::end(kPres),
                                [&](const Pre& p) { return p.name == wanted; });
  if (pre == std::end(kPres)) {
    return bad("pre-tokenizer '" + std::string(wanted) + "' is not supported");
  }
  for (const std::string_view regex : pre->regexes) {
    if (!regex.empty()) v.splits.push_back({std::string(regex)});
  }
  if (pre->nfc) v.normalizer.push_back({});
  v.ignore_merges = pre->ignore_merges;
  add_bos = pre->bos_by_default;
  const auto* merges = get<std::vector<std::string>>(metadata, "tokenizer.ggml.merges");
  if (merges == nullptr) return bad("tokenizer.ggml.merges is missing");
  v.merges.reserve(merges->size());
  for (const std::string& merge : *merges) {
    const size_t space = merge.find(' ', 1);
    if (space == std::string::npos) return bad("merge '" + merge + "' is not a pair");
    v.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  return ok_status();
}

Status read_sentencepiece(const Metadata& metadata, Vocabulary& v, bool& add_bos) {
  v.byte_fallback = true;
  v.fuse_unknown = true;
  add_bos = true;
  const auto* scores = get<std::vector<double>>(metadata, "tokenizer.ggml.scores");
  if (scores == nullptr) return bad("tokenizer.ggml.scores is missing");
  v.scores.reserve(scores->size());
  for (const double score : *scores) v.scores.push_back(static_cast<float>(score));
  if (flag(metadata, "tokenizer.ggml.add_space_prefix", true)) {
    NormalizerStep prepend;
    prepend.kind = NormalizerStep::Kind::kPrepend;
    prepend.content = " ";
    v.normalizer.push_back(std::move(prepend));
    v.strip_leading_space = true;
  }
  NormalizerStep mark;
  mark.kind = NormalizerStep::Kind::kReplace;
  mark.pattern = " ";
  mark.content = "\xe2\x96\x81";
  v.normalizer.push_back(std::move(mark));
  return ok_status();
}

Status read_types(const Metadata& metadata, Vocabulary& v) {
  v.outside_bpe.resize(v.tokens.size());
  const auto* types = get<std::vector<int64_t>>(metadata, "tokenizer.ggml.token_type");
  if (types == nullptr) return ok_status();
  if (types->size() != v.tokens.size()) {
    return bad(std::to_string(v.tokens.size()) + " tokens but " + std::to_string(types->size()) +
               " token types");
  }
  for (size_t i = 0; i < types->size(); ++i) {
    const int64_t type = (*types)[i];
    if (type == kNormal) continue;
    if (type != kByte && type != kUserDefined) v.outside_bpe[i] = true;
    if (type != kControl && type != kUnknown && type != kUserDefined) continue;
    if (v.tokens[i].empty()) return bad("control token " + std::to_string(i) + " is empty");
    AddedToken added;
    added.id = static_cast<int32_t>(i);
    added.text = v.tokens[i];
    added.special = type != kUserDefined;
    v.added.push_back(std::move(added));
  }
  return ok_status();
}

}  // namespace

Result<Vocabulary> vocabulary_from_gguf(const Metadata& metadata) {
  Vocabulary v;
  const auto* tokens = get<std::vector<std::string>>(metadata, "tokenizer.ggml.tokens");
  const std::string* model = get<std::string>(metadata, "tokenizer.ggml.model");
  if (tokens == nullptr || model == nullptr) {
    return bad("tokenizer.ggml.tokens or tokenizer.ggml.model is missing");
  }
  v.tokens = *tokens;
  const std::pair<std::string_view, int32_t*> ids[] = {
      {"tokenizer.ggml.bos_token_id", &v.bos},
      {"tokenizer.ggml.eos_token_id", &v.eos},
      {"tokenizer.ggml.unknown_token_id", &v.unknown}};
  for (const auto& [key, field] : ids) {
    const Result<int32_t> id = token_id(metadata, key, v.tokens.size());
    if (!id) return id.error();
    *field = *id;
  }
  const Status types = read_types(metadata, v);
  if (!types) return types.error();
  bool add_bos = false;
  if (*model != "gpt2" && *model != "llama") {
    return bad("model '" + *model + "' is not supported (gpt2 and llama are)");
  }
  const Status rest = *model == "gpt2" ? read_byte_level(metadata, v, add_bos)
                                       : read_sentencepiece(metadata, v, add_bos);
  if (!rest) return rest.error();
  if (flag(metadata, "tokenizer.ggml.add_bos_token", add_bos) && v.bos >= 0) {
    v.prefix.push_back(v.bos);
  }
  if (flag(metadata, "tokenizer.ggml.add_eos_token", false) && v.eos >= 0) {
    v.suffix.push_back(v.eos);
  }
  if (const std::string* text = get<std::string>(metadata, "tokenizer.chat_template")) {
    v.chat_template = *text;
  }
  return v;
}

}  // namespace troupe
