#include "gpu/model/config_sources.h"
#include "gpu/model/mapped_file.h"
#include "gpu/model/rope.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

namespace troupe {
namespace {

constexpr int64_t kTokenTypeControl = 3;

/// Texts that end a turn when they are control tokens of the vocabulary, besides the ids that the
/// metadata names. <reponame> ends a document in SmolLM2's training data.
constexpr std::string_view kEndMarkers[] = {
    "<|im_end|>",    "<|eot_id|>", "<|endoftext|>", "</s>",          "<|end|>", "<|end_of_text|>",
    "<end_of_turn>", "<EOT>",      "<|eom_id|>",    "<|endofturn|>", "<eos>",   "<reponame>",
};

/// Typed, ranged access to the metadata. The first problem is kept and everything after it reads as
/// zero, so that a caller checks once.
class Keys {
 public:
  Keys(const GgufFile& file, std::string architecture)
      : file_(file), architecture_(std::move(architecture)) {}

  [[nodiscard]] const std::optional<Error>& problem() const { return problem_; }
  void refuse(const std::string& key, const std::string& what) {
    if (!problem_) {
      problem_ =
          fail(ErrorCode::kBadModel, file_.path() + ": metadata key '" + key + "' " + what, key);
    }
  }
  [[nodiscard]] std::string own(std::string_view suffix) const {
    return architecture_ + "." + std::string(suffix);
  }
  [[nodiscard]] bool has(const std::string& key) const {
    return file_.metadata().find(key) != file_.metadata().end();
  }

  /// An integer; a list counts when all its elements agree (per-layer values that do not vary).
  std::optional<int32_t> integer(const std::string& key) {
    if (!has(key)) return std::nullopt;
    const int64_t* value = file_.get<int64_t>(key);
    if (const auto* list = file_.get<std::vector<int64_t>>(key); list != nullptr) {
      if (list->empty() || std::count(list->begin(), list->end(), list->front()) !=
                               static_cast<std::ptrdiff_t>(list->size())) {
        refuse(key, "differs between layers: such models are not supported");
        return 0;
      }
      value = &list->front();
    }
    if (value == nullptr || *value < 0 || *value > std::numeric_limits<int32_t>::max()) {
      refuse(key, "is no whole number from 0 to 2147483647: convert the model again");
      return 0;
    }
    return static_cast<int32_t>(*value);
  }
  int32_t required(std::string_view suffix) {
    const std::string key = own(suffix);
    if (!has(key)) refuse(key, "is missing: convert the model again");
    return integer(key).value_or(0);
  }
  double number(const std::string& key, double otherwise) {
    if (!has(key)) return otherwise;
    if (const auto* value = file_.get<double>(key); value != nullptr) return *value;
    if (const auto* value = file_.get<int64_t>(key); value != nullptr) {
      return static_cast<double>(*value);
    }
    refuse(key, "is no number: convert the model again");
    return otherwise;
  }
  std::string text(const std::string& key, const std::string& otherwise) {
    if (!has(key)) return otherwise;
    if (const auto* value = file_.get<std::string>(key); value != nullptr) return *value;
    refuse(key, "is no text: convert the model again");
    return otherwise;
  }

 private:
  const GgufFile& file_;
  std::string architecture_;
  std::optional<Error> problem_;
};

const TensorView* tensor(const GgufFile& file, std::string_view name) {
  const auto it = file.tensors().find(name);
  return it == file.tensors().end() ? nullptr : &it->second;
}

RopeScaling read_scaling(Keys& keys, const GgufFile& file, ModelConfig& config) {
  RopeScaling s;
  const std::string kind = keys.text(keys.own("rope.scaling.type"), "");
  s.factor =
      keys.number(keys.own("rope.scaling.factor"), keys.number(keys.own("rope.scale_linear"), 1.0));
  if (s.factor == 0.0) s.factor = 1.0;  // llama.cpp writes 0 for "none"
  if (kind == "yarn") {
    s.kind = RopeScaling::Kind::kYarn;
    s.original_context =
        keys.number(keys.own("rope.scaling.original_context_length"), config.max_context);
    s.beta_fast = keys.number(keys.own("rope.scaling.yarn_beta_fast"), s.beta_fast);
    s.beta_slow = keys.number(keys.own("rope.scaling.yarn_beta_slow"), s.beta_slow);
    const double attention = keys.number(keys.own("rope.scaling.attn_factor"), 1.0);
    const double computed = s.factor > 1.0 ? 0.1 * std::log(s.factor) + 1.0 : 1.0;
    s.attention_factor = attention * computed;
    const double stretched = s.factor * s.original_context;
    if (stretched > config.max_context && stretched < 1e8) {
      config.max_context = static_cast<int32_t>(stretched);
    }
  } else if (kind == "linear" || (kind.empty() && s.factor != 1.0)) {
    s.kind = RopeScaling::Kind::kLinear;
  } else if (!kind.empty() && kind != "none") {
    keys.refuse(keys.own("rope.scaling.type"),
                "is '" + printable(kind) + "': only none, linear and yarn are supported");
  }
  const TensorView* divisors = tensor(file, "rope_freqs.weight");
  if (divisors != nullptr) {
    if (divisors->dtype != DType::kF32 || divisors->shape.size() != 1) {
      keys.refuse("rope_freqs.weight", "(a tensor) is not a list of F32");
      return s;
    }
    s.divisors.resize(static_cast<size_t>(divisors->shape[0]));
    std::memcpy(s.divisors.data(), divisors->data, static_cast<size_t>(divisors->bytes));
  }
  return s;
}

void read_vocabulary(Keys& keys, const GgufFile& file, ModelConfig& config) {
  const TensorView* embedding = tensor(file, "token_embd.weight");
  const auto* tokens = file.get<std::vector<std::string>>("tokenizer.ggml.tokens");
  int64_t rows = tokens == nullptr ? 0 : static_cast<int64_t>(tokens->size());
  if (embedding != nullptr) {
    if (rows > embedding->rows()) {
      keys.refuse("tokenizer.ggml.tokens", "has " + std::to_string(rows) + " entries, but " +
                                               "token_embd.weight only " +
                                               std::to_string(embedding->rows()) + " rows");
    }
    rows = embedding->rows();
  }
  config.vocab = static_cast<int32_t>(std::min<int64_t>(rows, std::numeric_limits<int32_t>::max()));

  std::vector<int32_t>& stops = config.stop_tokens;
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    if (const auto id = keys.integer(key)) stops.push_back(*id);
  }
  const auto* types = file.get<std::vector<int64_t>>("tokenizer.ggml.token_type");
  for (size_t i = 0; tokens != nullptr && types != nullptr && i < tokens->size(); ++i) {
    if (i >= types->size()) break;
    if ((*types)[i] == kTokenTypeControl &&
        std::find(std::begin(kEndMarkers), std::end(kEndMarkers), (*tokens)[i]) !=
            std::end(kEndMarkers)) {
      stops.push_back(static_cast<int32_t>(i));
    }
  }
  std::sort(stops.begin(), stops.end());
  stops.erase(std::unique(stops.begin(), stops.end()), stops.end());
}

}  // namespace

Result<ModelConfig> config_from_gguf(const GgufFile& file) {
  const auto* architecture = file.get<std::string>("general.architecture");
  Keys keys(file, architecture == nullptr ? "" : *architecture);
  ModelConfig config;
  if (architecture == nullptr) {
    keys.refuse("general.architecture", "is missing: not a language model");
    return *keys.problem();
  }
  config.architecture = *architecture;
  if (config.architecture != "llama" && config.architecture != "qwen2" &&
      config.architecture != "qwen3") {
    keys.refuse("general.architecture", "is '" + printable(config.architecture) +
                                            "': only llama, qwen2 and qwen3 are supported");
    return *keys.problem();
  }
  if (keys.integer("split.count").value_or(1) > 1) {
    keys.refuse("split.count", "says this is one part of several: merge them into one file first");
  }
  if (keys.integer(keys.own("expert_count")).value_or(0) > 0) {
    keys.refuse(keys.own("expert_count"), "is not 0: mixtures of experts are not supported");
  }
  config.name = keys.text("general.name", file.path().substr(file.path().rfind('/') + 1));
  config.n_layers = keys.required("block_count");
  config.max_context = keys.required("context_length");
  config.hidden = keys.required("embedding_length");
  config.ffn = keys.required("feed_forward_length");
  config.n_heads = keys.required("attention.head_count");
  config.n_kv_heads = keys.integer(keys.own("attention.head_count_kv")).value_or(config.n_heads);
  config.head_dim = keys.integer(keys.own("attention.key_length"))
                        .value_or(config.n_heads > 0 ? config.hidden / config.n_heads : 0);
  if (keys.integer(keys.own("attention.value_length")).value_or(config.head_dim) !=
      config.head_dim) {
    keys.refuse(keys.own("attention.value_length"),
                "differs from the key length: such models are not supported");
  }
  config.rms_eps =
      static_cast<float>(keys.number(keys.own("attention.layer_norm_rms_epsilon"), 0.0));
  config.sliding_window = keys.integer(keys.own("attention.sliding_window")).value_or(0);
  config.tied_head = tensor(file, "output.weight") == nullptr;
  config.qkv_bias = tensor(file, "blk.0.attn_q.bias") != nullptr;
  config.qk_norm = tensor(file, "blk.0.attn_q_norm.weight") != nullptr;
  read_vocabulary(keys, file, config);
  // The converter reorders the rows of q and k of this architecture to interleaved pairs.
  config.rope.interleaved = config.architecture == "llama";
  const int32_t rotary = keys.integer(keys.own("rope.dimension_count")).value_or(config.head_dim);
  const double theta = keys.number(keys.own("rope.freq_base"), 10000.0);
  const RopeScaling scaling = read_scaling(keys, file, config);
  if (config.sliding_window >= config.max_context) config.sliding_window = 0;
  if (keys.problem()) return *keys.problem();

  Status status = resolve_rope(config.rope, rotary, theta, scaling);
  if (status.ok()) status = check_config(config);
  if (!status.ok()) {
    return fail(ErrorCode::kBadModel, file.path() + ": " + status.error().message,
                status.error().param);
  }
  return config;
}

}  // namespace troupe
