#include "gpu/sim/model_shapes.h"

#include "gpu/model/config_sources.h"
#include "gpu/model/gguf.h"
#include "gpu/model/mapped_file.h"

#include <algorithm>
#include <cctype>
#include <filesystem>

namespace troupe {
namespace {

struct Shape {
  const char* name;
  const char* architecture;
  int32_t n_layers, hidden, n_heads, n_kv_heads, head_dim, ffn, vocab, max_context;
  bool tied_head;
};

// From the published config.json of each model.
constexpr Shape kShapes[] = {
    {"smollm2-135m", "llama", 30, 576, 9, 3, 64, 1536, 49152, 8192, true},
    {"mistral-7b", "mistral", 32, 4096, 32, 8, 128, 14336, 32768, 32768, false},
    {"qwen2.5-7b", "qwen2", 28, 3584, 28, 4, 128, 18944, 152064, 32768, false},
    {"llama-3-8b", "llama", 32, 4096, 32, 8, 128, 14336, 128256, 131072, false},
    {"qwen3-8b", "qwen3", 36, 4096, 32, 8, 128, 12288, 151936, 40960, false},
    {"qwen2.5-14b", "qwen2", 48, 5120, 40, 8, 128, 13824, 152064, 32768, false},
    {"qwen3-14b", "qwen3", 40, 5120, 40, 8, 128, 17408, 151936, 40960, false},
    {"qwen2.5-32b", "qwen2", 64, 5120, 40, 8, 128, 27648, 152064, 32768, false},
    {"qwen3-32b", "qwen3", 64, 5120, 64, 8, 128, 25600, 151936, 40960, false},
    {"llama-3-70b", "llama", 80, 8192, 64, 8, 128, 28672, 128256, 131072, false},
    {"qwen2.5-72b", "qwen2", 80, 8192, 64, 8, 128, 29568, 152064, 32768, false},
    {"llama-3-405b", "llama", 126, 16384, 128, 8, 128, 53248, 128256, 131072, false},
};

ModelConfig to_config(const Shape& shape) {
  ModelConfig config;
  config.architecture = shape.architecture;
  config.name = shape.name;
  config.n_layers = shape.n_layers;
  config.hidden = shape.hidden;
  config.n_heads = shape.n_heads;
  config.n_kv_heads = shape.n_kv_heads;
  config.head_dim = shape.head_dim;
  config.ffn = shape.ffn;
  config.vocab = shape.vocab;
  config.max_context = shape.max_context;
  config.tied_head = shape.tied_head;
  return config;
}

}  // namespace

std::vector<std::string> model_shape_names() {
  std::vector<std::string> names;
  for (const Shape& shape : kShapes) names.emplace_back(shape.name);
  return names;
}

Result<ModelConfig> find_model_shape(const std::string& name_or_path) {
  std::string lower = name_or_path;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const Shape& shape : kShapes) {
    if (lower == shape.name) return to_config(shape);
  }
  std::error_code error;
  const std::filesystem::path path(name_or_path);
  if (std::filesystem::is_directory(path, error)) return config_from_hf(name_or_path);
  if (path.filename() == "config.json" && std::filesystem::exists(path, error)) {
    const std::string directory = path.parent_path().string();
    return config_from_hf(directory.empty() ? "." : directory);
  }
  if (std::filesystem::is_regular_file(path, error)) {
    auto file = GgufFile::open(name_or_path);
    if (!file) return file.error();
    return config_from_gguf(**file);
  }
  std::string known;
  for (const Shape& shape : kShapes) known += std::string(known.empty() ? "" : ", ") + shape.name;
  return fail(ErrorCode::kNotFound,
              "no model '" + printable(name_or_path) +
                  "': give a config.json, a GGUF file or one of " + known,
              "--model");
}

}  // namespace troupe
