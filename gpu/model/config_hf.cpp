#include "gpu/model/config_sources.h"
#include "gpu/model/json_file.h"
#include "gpu/model/mapped_file.h"
#include "gpu/model/quantization.h"
#include "gpu/model/rope.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

namespace troupe {
namespace {

using nlohmann::json;

struct Family {
  std::string_view class_name;
  const char* architecture;
  bool qkv_bias;
  bool qk_norm;
};
constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", "llama", false, false},
    {"MistralForCausalLM", "mistral", false, false},
    {"Qwen2ForCausalLM", "qwen2", true, false},
    {"Qwen3ForCausalLM", "qwen3", false, true},
};

/// Typed, ranged access to one JSON object; null counts as absent. The first problem is kept and
/// everything after it reads as the default, so that a caller checks once.
class Fields {
 public:
  Fields(const json& object, std::string path) : object_(object), path_(std::move(path)) {}

  [[nodiscard]] const std::optional<Error>& problem() const { return problem_; }
  void refuse(const std::string& field, const std::string& what) {
    if (problem_) return;
    problem_ = fail(ErrorCode::kBadModel, path_ + ": '" + field + "' " + what, field);
  }
  [[nodiscard]] const json* find(const std::string& field) const {
    const auto it = object_.find(field);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  /// Whether the key is there at all, be it null.
  [[nodiscard]] bool has(const std::string& field) const { return object_.contains(field); }
  std::optional<int32_t> integer(const std::string& field) {
    const json* value = find(field);
    if (value == nullptr) return std::nullopt;
    if (const auto n = as_integer(*value)) return *n;
    refuse(field, "is no whole number from 0 to 2147483647");
    return 0;
  }
  int32_t required(const std::string& field) {
    if (find(field) == nullptr) refuse(field, "is missing");
    return integer(field).value_or(0);
  }
  double number(const std::string& field, double otherwise) {
    const json* value = find(field);
    if (value == nullptr) return otherwise;
    if (value->is_number()) return value->get<double>();
    refuse(field, "is no number");
    return otherwise;
  }
  bool flag(const std::string& field, bool otherwise) {
    const json* value = find(field);
    if (value == nullptr) return otherwise;
    if (value->is_boolean()) return value->get<bool>();
    refuse(field, "is neither true nor false");
    return otherwise;
  }
  std::string text(const std::string& field, const std::string& otherwise) {
    const json* value = find(field);
    if (value == nullptr) return otherwise;
    if (value->is_string()) return value->get<std::string>();
    refuse(field, "is no text");
    return otherwise;
  }
  /// A token id or a list of them, appended.
  void token_ids(const std::string& field, std::vector<int32_t>& out) {
    const json* value = find(field);
    if (value == nullptr) return;
    const json list = value->is_array() ? *value : json::array({*value});
    for (const json& element : list) {
      const auto id = as_integer(element);
      if (!id) return refuse(field, "is neither a token id nor a list of them");
      out.push_back(*id);
    }
  }

 private:
  static std::optional<int32_t> as_integer(const json& value) {
    if (!value.is_number_unsigned()) return std::nullopt;
    const auto n = value.get<uint64_t>();
    if (n > static_cast<uint64_t>(std::numeric_limits<int32_t>::max())) return std::nullopt;
    return static_cast<int32_t>(n);
  }

  const json& object_;
  std::string path_;
  std::optional<Error> problem_;
};

const Family* read_family(Fields& fields) {
  const json* classes = fields.find("architectures");
  const std::string name =
      classes != nullptr && classes->is_array() && !classes->empty() && classes->front().is_string()
          ? classes->front().get<std::string>()
          : "";
  const auto* family = std::find_if(std::begin(kFamilies), std::end(kFamilies),
                                    [&](const Family& f) { return f.class_name == name; });
  if (family != std::end(kFamilies)) return family;
  fields.refuse("architectures", "is '" + printable(name) +
                                     "': only LlamaForCausalLM, MistralForCausalLM, "
                                     "Qwen2ForCausalLM and Qwen3ForCausalLM are supported");
  return nullptr;
}

/// What a config can switch on that the forward pass does not have.
void refuse_unsupported(Fields& fields) {
  const std::string activation = fields.text("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    fields.refuse("hidden_act", "is '" + printable(activation) + "': only silu is supported");
  }
  if (fields.flag("mlp_bias", false)) fields.refuse("mlp_bias", "is true: not supported");
}

int32_t read_window(Fields& fields, const ModelConfig& config) {
  const bool qwen = config.architecture == "qwen2" || config.architecture == "qwen3";
  if (config.architecture == "llama" || (qwen && !fields.flag("use_sliding_window", false))) {
    return 0;
  }
  // An absent key is not null: the class has a default then.
  const int32_t otherwise = fields.has("sliding_window") ? 0 : 4096;
  const int32_t window = fields.integer("sliding_window").value_or(otherwise);
  if (window == 0) return 0;
  int32_t full_layers = 0;
  if (const json* types = fields.find("layer_types"); types != nullptr && types->is_array()) {
    full_layers = static_cast<int32_t>(std::count(types->begin(), types->end(), "full_attention"));
  } else if (qwen) {
    full_layers = std::min(fields.integer("max_window_layers").value_or(28), config.n_layers);
  }
  if (full_layers >= config.n_layers) return 0;
  if (full_layers > 0) {
    fields.refuse("sliding_window", "holds for some layers only: such models are not supported");
  }
  return window;
}

/// Resolves rope_theta and rope_scaling (or rope_parameters, which holds both in newer files).
Status read_rope(Fields& fields, const std::string& path, ModelConfig& config) {
  const json* scaling_json = fields.find("rope_parameters");
  if (scaling_json == nullptr) scaling_json = fields.find("rope_scaling");
  static const json kNothing = json::object();
  if (scaling_json == nullptr) scaling_json = &kNothing;
  if (!scaling_json->is_object()) {
    return fail(ErrorCode::kBadModel, path + ": 'rope_scaling' is no object", "rope_scaling");
  }
  Fields rope(*scaling_json, path);
  const double theta = rope.number("rope_theta", fields.number("rope_theta", 10000.0));
  const double partial =
      rope.number("partial_rotary_factor", fields.number("partial_rotary_factor", 1.0));
  if (!(partial > 0.0 && partial <= 1.0)) {
    rope.refuse("partial_rotary_factor", "is not between 0 and 1");
  }
  const std::string kind = rope.text("rope_type", rope.text("type", "default"));
  RopeScaling s;
  s.factor = rope.number("factor", 1.0);
  s.original_context = rope.number("original_max_position_embeddings", config.max_context);
  if (kind == "linear") {
    s.kind = RopeScaling::Kind::kLinear;
  } else if (kind == "llama3") {
    s.kind = RopeScaling::Kind::kLlama3;
    s.low_frequency = rope.number("low_freq_factor", s.low_frequency);
    s.high_frequency = rope.number("high_freq_factor", s.high_frequency);
  } else if (kind == "yarn") {
    s.kind = RopeScaling::Kind::kYarn;
    s.beta_fast = rope.number("beta_fast", s.beta_fast);
    s.beta_slow = rope.number("beta_slow", s.beta_slow);
    s.truncate = rope.flag("truncate", s.truncate);
    s.attention_factor = rope.number("attention_factor", 0.0);
    if (rope.find("mscale") != nullptr || rope.find("mscale_all_dim") != nullptr) {
      rope.refuse("mscale", "is not supported for these architectures");
    }
    const double stretched = s.factor * s.original_context;
    if (stretched > config.max_context && stretched < 1e8) {
      config.max_context = static_cast<int32_t>(stretched);
    }
  } else if (kind != "default" && kind != "dynamic") {
    rope.refuse("rope_type", "is '" + printable(kind) +
                                 "': only linear, llama3, yarn and dynamic are supported");
  } else {
    s.factor = 1.0;
  }
  if (rope.problem()) return *rope.problem();
  if (fields.problem()) return *fields.problem();
  const auto rotary = static_cast<int32_t>(static_cast<double>(config.head_dim) * partial);
  return resolve_rope(config.rope, rotary, theta, s);
}

Status read_stop_tokens(Fields& fields, const std::string& directory, ModelConfig& config) {
  fields.token_ids("eos_token_id", config.stop_tokens);
  const std::string path = directory + "/generation_config.json";
  const Result<json> generation = read_json_file(path);
  if (generation.ok()) {
    Fields more(*generation, path);
    more.token_ids("eos_token_id", config.stop_tokens);
    if (more.problem()) return *more.problem();
  } else if (generation.error().code != ErrorCode::kNotFound) {
    return generation.error();
  }
  std::vector<int32_t>& stops = config.stop_tokens;
  std::sort(stops.begin(), stops.end());
  stops.erase(std::unique(stops.begin(), stops.end()), stops.end());
  return ok_status();
}

}  // namespace

Result<ModelConfig> config_from_hf(const std::string& directory) {
  const std::string path = directory + "/config.json";
  const Result<json> tree = read_json_file(path);
  if (!tree) return tree.error();
  Fields fields(*tree, path);
  const Family* family = read_family(fields);
  if (family == nullptr) return *fields.problem();
  if (const Status s = check_quantization(*tree, directory); !s) return s.error();
  refuse_unsupported(fields);

  ModelConfig config;
  config.architecture = family->architecture;
  config.name = std::filesystem::path(directory).lexically_normal().filename().string();
  if (config.name.empty()) config.name = directory;
  config.n_layers = fields.required("num_hidden_layers");
  config.hidden = fields.required("hidden_size");
  config.ffn = fields.required("intermediate_size");
  config.n_heads = fields.required("num_attention_heads");
  config.n_kv_heads = config.architecture == "llama"
                          ? fields.integer("num_key_value_heads").value_or(config.n_heads)
                          : fields.required("num_key_value_heads");
  const int32_t usual_head = config.n_heads > 0 ? config.hidden / config.n_heads : 0;
  config.head_dim =
      fields.integer("head_dim").value_or(config.architecture == "qwen3" ? 128 : usual_head);
  config.vocab = fields.required("vocab_size");
  config.max_context = fields.required("max_position_embeddings");
  config.rms_eps = static_cast<float>(fields.number("rms_norm_eps", 1e-6));
  config.qkv_bias = family->qkv_bias || fields.flag("attention_bias", false);
  config.qk_norm = family->qk_norm;
  config.tied_head = fields.flag("tie_word_embeddings", false);
  config.rope.interleaved = false;

  Status status = read_rope(fields, path, config);
  if (status.ok()) {
    config.sliding_window = read_window(fields, config);
    if (config.sliding_window >= config.max_context) config.sliding_window = 0;
    status = read_stop_tokens(fields, directory, config);
  }
  if (fields.problem()) return *fields.problem();
  if (status.ok()) status = check_config(config);
  if (status.ok()) return config;
  const Error& error = status.error();
  const bool named = error.message.rfind(directory, 0) == 0;
  return fail(error.code, named ? error.message : path + ": " + error.message, error.param);
}

}  // namespace troupe
