#include "actors/text/tokenizer_json.h"

#include "actors/text/pretokenizer.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <utility>

namespace troupe {
namespace {

using Json = nlohmann::json;

constexpr const char* kByteLevelRegex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kSpaceMark = "\xe2\x96\x81";

Error bad(const std::string& what) { return fail(ErrorCode::kBadModel, "tokenizer.json: " + what); }

/// Deeply nested documents are refused before the parser sees them: its values are recursive.
bool nests_deeply(std::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '[' || c == '{') {
      if (++depth > 64) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

const Json& member(const Json& object, const char* key) {
  static const Json kNull;
  if (!object.is_object()) return kNull;
  const auto it = object.find(key);
  return it == object.end() ? kNull : *it;
}

std::string text_of(const Json& object, const char* key) {
  const Json& value = member(object, key);
  return value.is_string() ? value.get<std::string>() : std::string();
}

bool flag_of(const Json& object, const char* key, bool otherwise) {
  const Json& value = member(object, key);
  return value.is_boolean() ? value.get<bool>() : otherwise;
}

/// A token id in [0, limit), or -1.
int32_t id_of(const Json& value, int64_t limit) {
  if (!value.is_number_integer() || (value.is_number_unsigned() && value > INT32_MAX)) return -1;
  const auto id = value.get<int64_t>();
  return id >= 0 && id < limit && id <= INT32_MAX ? static_cast<int32_t>(id) : -1;
}

/// The steps of a normalizer, pre-tokenizer, decoder...: one, or the list in a Sequence.
std::vector<const Json*> steps_of(const Json& node, const char* list) {
  if (node.is_null()) return {};
  if (text_of(node, "type") != "Sequence") return {&node};
  std::vector<const Json*> steps;
  for (const Json& step : member(node, list)) {
    for (const Json* inner : steps_of(step, list)) steps.push_back(inner);
  }
  return steps;
}

Status read_normalizer(const Json& root, Vocabulary& v) {
  for (const Json* step : steps_of(member(root, "normalizer"), "normalizers")) {
    const std::string type = text_of(*step, "type");
    NormalizerStep out;
    if (type == "NFC") {
      out.kind = NormalizerStep::Kind::kNfc;
    } else if (type == "Prepend") {
      out.kind = NormalizerStep::Kind::kPrepend;
      out.content = text_of(*step, "prepend");
      v.strip_leading_space = out.content == kSpaceMark;
    } else if (type == "Replace" && !text_of(member(*step, "pattern"), "String").empty()) {
      out.kind = NormalizerStep::Kind::kReplace;
      out.pattern = text_of(member(*step, "pattern"), "String");
      out.content = text_of(*step, "content");
    } else {
      return bad("normalizer '" + type + "' is not supported");
    }
    v.normalizer.push_back(std::move(out));
  }
  return ok_status();
}

Status read_split(const Json& step, Vocabulary& v) {
  SplitStep out;
  out.regex = text_of(member(step, "pattern"), "Regex");
  if (out.regex.empty()) out.regex = regex_literal(text_of(member(step, "pattern"), "String"));
  if (out.regex.empty()) return bad("a Split has no pattern");
  using Behavior = SplitStep::Behavior;
  const std::pair<const char*, Behavior> names[] = {
      {"Isolated", Behavior::kIsolated},
      {"Removed", Behavior::kRemoved},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious},
      {"MergedWithNext", Behavior::kMergedWithNext},
      {"Contiguous", Behavior::kContiguous}};
  const std::string behavior = text_of(step, "behavior");
  const auto* it = std::find_if(std::begin(names), std::end(names),
                                [&](const auto& name) { return behavior == name.first; });
  if (it == std::end(names)) return bad("Split behavior '" + behavior + "' is not known");
  out.behavior = it->second;
  out.invert = flag_of(step, "invert", false);
  v.splits.push_back(std::move(out));
  return ok_status();
}

/// Metaspace changes the text (as normalizer steps can) and may then cut before every mark.
Status read_metaspace(const Json& step, Vocabulary& v) {
  const std::string mark = text_of(step, "replacement");
  if (mark != kSpaceMark) return bad("Metaspace replacement '" + mark + "' is not supported");
  NormalizerStep replace;
  replace.kind = NormalizerStep::Kind::kReplace;
  replace.pattern = " ";
  replace.content = mark;
  v.normalizer.push_back(replace);
  std::string scheme = text_of(step, "prepend_scheme");
  if (scheme.empty()) scheme = flag_of(step, "add_prefix_space", true) ? "always" : "never";
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    return bad("Metaspace prepend_scheme '" + scheme + "' is not known");
  }
  if (scheme != "never") {
    NormalizerStep prepend;
    prepend.kind = NormalizerStep::Kind::kPrepend;
    prepend.content = mark;
    prepend.only_at_start = scheme == "first";
    prepend.unless_there = true;
    v.normalizer.push_back(prepend);
    v.strip_leading_space = true;
  }
  if (flag_of(step, "split", true)) {
    v.splits.push_back({mark, SplitStep::Behavior::kMergedWithNext, false});
  }
  return ok_status();
}

Status read_pretokenizer(const Json& root, Vocabulary& v) {
  for (const Json* step : steps_of(member(root, "pre_tokenizer"), "pretokenizers")) {
    const std::string type = text_of(*step, "type");
    if (v.byte_level) return bad("a pre-tokenizer after ByteLevel is not supported");
    if (type == "Split") {
      const Status split = read_split(*step, v);
      if (!split) return split;
    } else if (type == "Digits") {
      v.splits.push_back({flag_of(*step, "individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)"});
    } else if (type == "ByteLevel") {
      v.byte_level = true;
      if (flag_of(*step, "add_prefix_space", true)) {
        if (!v.splits.empty()) return bad("ByteLevel add_prefix_space after a split");
        NormalizerStep prepend;
        prepend.kind = NormalizerStep::Kind::kPrepend;
        prepend.content = " ";
        prepend.unless_there = true;
        v.normalizer.push_back(std::move(prepend));
      }
      if (flag_of(*step, "use_regex", true)) v.splits.push_back({kByteLevelRegex});
    } else if (type == "Metaspace") {
      if (!v.splits.empty()) return bad("Metaspace after a split is not supported");
      const Status metaspace = read_metaspace(*step, v);
      if (!metaspace) return metaspace;
    } else {
      return bad("pre-tokenizer '" + type + "' is not supported");
    }
  }
  return ok_status();
}

/// The decoder says nothing that the rest did not, except whether a leading space goes.
Status read_decoder(const Json& root, Vocabulary& v) {
  for (const Json* step : steps_of(member(root, "decoder"), "decoders")) {
    const std::string type = text_of(*step, "type");
    if (type == "ByteLevel" || type == "ByteFallback" || type == "Fuse" || type == "Replace" ||
        type == "Strip" || type == "Metaspace") {
      continue;
    }
    return bad("decoder '" + type + "' is not supported");
  }
  if (v.byte_level) v.strip_leading_space = false;
  return ok_status();
}

/// Puts `text` at `id`; the vocabulary grows as needed (id is below max_vocab).
Status place(Vocabulary& v, int32_t id, const std::string& text) {
  const auto at = static_cast<size_t>(id);
  if (at >= v.tokens.size()) {
    v.tokens.resize(at + 1);
    v.outside_bpe.resize(at + 1, true);  // holes stay outside
  }
  if (!v.tokens[at].empty() && v.tokens[at] != text) {
    return bad("token " + std::to_string(id) + " is both '" + v.tokens[at] + "' and '" + text +
               "'");
  }
  v.tokens[at] = text;
  return ok_status();
}

Status read_vocab(const Json& model, Vocabulary& v, int64_t max_vocab) {
  const Json& vocab = member(model, "vocab");
  if (!vocab.is_object() || vocab.empty()) return bad("model.vocab is missing");
  for (const auto& [text, value] : vocab.items()) {
    const int32_t id = id_of(value, max_vocab);
    if (id < 0) return bad("token '" + text + "' has an id outside of the model's vocabulary");
    if (text.empty()) return bad("token " + std::to_string(id) + " is empty");
    const Status placed = place(v, id, text);
    if (!placed) return placed;
    v.outside_bpe[static_cast<size_t>(id)] = false;
  }
  return ok_status();
}

Status read_merges(const Json& model, Vocabulary& v) {
  const Json& merges = member(model, "merges");
  if (!merges.is_array()) return bad("model.merges is missing");
  v.merges.reserve(merges.size());
  for (const Json& merge : merges) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      v.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      continue;
    }
    const std::string text = merge.is_string() ? merge.get<std::string>() : std::string();
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      return bad("merge " + std::to_string(v.merges.size()) + " is not a pair");
    }
    v.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  return ok_status();
}

Status read_added(const Json& root, Vocabulary& v, int64_t max_vocab) {
  for (const Json& token : member(root, "added_tokens")) {
    AddedToken added;
    added.id = id_of(member(token, "id"), max_vocab);
    added.text = text_of(token, "content");
    if (added.id < 0 || added.text.empty()) {
      return bad("added token '" + added.text + "' has no text or an id outside of the vocabulary");
    }
    added.special = flag_of(token, "special", false);
    added.lstrip = flag_of(token, "lstrip", false);
    added.rstrip = flag_of(token, "rstrip", false);
    added.single_word = flag_of(token, "single_word", false);
    const Status placed = place(v, added.id, added.text);
    if (!placed) return placed;
    v.added.push_back(std::move(added));
  }
  return ok_status();
}

int32_t find_token(const Vocabulary& v, const std::string& text) {
  if (text.empty()) return -1;
  for (const AddedToken& token : v.added) {
    if (token.text == text) return token.id;
  }
  const auto it = std::find(v.tokens.begin(), v.tokens.end(), text);
  return it == v.tokens.end() ? -1 : static_cast<int32_t>(it - v.tokens.begin());
}

/// TemplateProcessing's "single" says what stands around a prompt.
Status read_post_processor(const Json& root, Vocabulary& v) {
  for (const Json* step : steps_of(member(root, "post_processor"), "processors")) {
    const std::string type = text_of(*step, "type");
    if (type == "ByteLevel") continue;
    if (type != "TemplateProcessing") return bad("post-processor '" + type + "' is not supported");
    bool after = false;
    for (const Json& part : member(*step, "single")) {
      if (member(part, "Sequence").is_object()) {
        after = true;
        continue;
      }
      const std::string text = text_of(member(part, "SpecialToken"), "id");
      const int32_t id = find_token(v, text);
      if (id < 0) return bad("the post-processor names unknown token '" + text + "'");
      (after ? v.suffix : v.prefix).push_back(id);
    }
  }
  return ok_status();
}

/// A token in tokenizer_config.json: its text, or an object with "content".
int32_t named_token(const Json& config, const char* key, const Vocabulary& v) {
  const Json& value = member(config, key);
  return find_token(v, value.is_object() ? text_of(value, "content") : text_of(config, key));
}

void read_config(const Json& config, Vocabulary& v) {
  v.bos = named_token(config, "bos_token", v);
  v.eos = named_token(config, "eos_token", v);
  const Json& add_bos = member(config, "add_bos_token");
  const Json& add_eos = member(config, "add_eos_token");
  if (add_bos.is_boolean()) v.prefix.clear();
  if (add_bos == true && v.bos >= 0) v.prefix.push_back(v.bos);
  if (add_eos.is_boolean()) v.suffix.clear();
  if (add_eos == true && v.eos >= 0) v.suffix.push_back(v.eos);
  const Json& chat = member(config, "chat_template");
  if (chat.is_string()) v.chat_template = chat.get<std::string>();
  if (!chat.is_array()) return;
  for (const Json& named : chat) {  // several templates by name
    if (text_of(named, "name") == "default") v.chat_template = text_of(named, "template");
  }
}

Status read_model(const Json& root, Vocabulary& v, int64_t max_vocab) {
  const Json& model = member(root, "model");
  const std::string type = text_of(model, "type");
  if (type != "BPE" && !(type.empty() && member(model, "merges").is_array())) {
    return bad("model '" + type + "' is not supported (BPE is)");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!text_of(model, key).empty()) return bad(std::string(key) + " is not supported");
  }
  v.byte_fallback = flag_of(model, "byte_fallback", false);
  v.fuse_unknown = flag_of(model, "fuse_unk", false);
  v.ignore_merges = flag_of(model, "ignore_merges", false);
  for (const Status& status : {read_vocab(model, v, max_vocab), read_merges(model, v)}) {
    if (!status) return status;
  }
  v.unknown = find_token(v, text_of(model, "unk_token"));
  return ok_status();
}

}  // namespace

Result<Vocabulary> vocabulary_from_json(std::string_view tokenizer_json,
                                        std::string_view tokenizer_config_json, int64_t max_vocab) {
  if (nests_deeply(tokenizer_json) || nests_deeply(tokenizer_config_json)) {
    return bad("nested too deeply");
  }
  const Json root = Json::parse(tokenizer_json, nullptr, false);
  if (!root.is_object()) return bad("not a JSON object");
  Vocabulary v;
  Status status = read_model(root, v, max_vocab);
  if (status) status = read_added(root, v, max_vocab);
  if (status) status = read_normalizer(root, v);
  if (status) status = read_pretokenizer(root, v);
  if (status) status = read_decoder(root, v);
  if (status) status = read_post_processor(root, v);
  if (!status) return status.error();
  if (!tokenizer_config_json.empty()) {
    const Json config = Json::parse(tokenizer_config_json, nullptr, false);
    if (!config.is_object()) {
      return fail(ErrorCode::kBadModel, "tokenizer_config.json is not a JSON object");
    }
    read_config(config, v);
  }
  return v;
}

}  // namespace troupe
