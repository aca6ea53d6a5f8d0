#include "gpu/model/checkpoint.h"

#include "gpu/model/checkpoint_checks.h"
#include "gpu/model/checkpoint_names.h"
#include "gpu/model/config_sources.h"
#include "gpu/model/gguf.h"
#include "gpu/model/json_file.h"
#include "gpu/model/mapped_file.h"
#include "gpu/model/safetensors.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <utility>
#include <vector>

namespace troupe {
namespace {

namespace fs = std::filesystem;

class LoadedCheckpoint final : public Checkpoint {
 public:
  static Result<std::unique_ptr<Checkpoint>> from_gguf(const std::string& path);
  static Result<std::unique_ptr<Checkpoint>> from_hf(const std::string& directory);

  [[nodiscard]] const std::string& path() const override { return path_; }
  [[nodiscard]] const ModelConfig& config() const override { return config_; }
  [[nodiscard]] const TensorView* find(std::string_view canonical_name) const override {
    const auto it = tensors_.find(canonical_name);
    return it == tensors_.end() ? nullptr : &it->second.view;
  }
  [[nodiscard]] const GgufFile* gguf() const override { return gguf_.get(); }

 private:
  Status add_shard(const std::string& file);
  Status add_indexed(const std::string& directory, const std::string& index);
  Status take(const SafetensorsFile& file, const std::string& name);

  std::string path_;
  ModelConfig config_;
  std::unique_ptr<GgufFile> gguf_;
  std::vector<std::unique_ptr<SafetensorsFile>> shards_;
  StoredTensors tensors_;
};

Result<std::unique_ptr<Checkpoint>> LoadedCheckpoint::from_gguf(const std::string& path) {
  Result<std::unique_ptr<GgufFile>> file = GgufFile::open(path);
  if (!file) return file.error();
  Result<ModelConfig> config = config_from_gguf(**file);
  if (!config) return config.error();
  auto out = std::make_unique<LoadedCheckpoint>();
  out->path_ = path;
  for (const auto& [name, view] : (*file)->tensors()) {
    if (name == "rope_freqs.weight") continue;  // is in config.rope already
    const auto canonical = canonical_from_gguf(name);
    out->tensors_.emplace(canonical.value_or(name), Stored{view, path});
  }
  const Status status = check_tensors(out->tensors_, *config, path, /*vectors_f32=*/true);
  if (!status.ok()) return status.error();
  out->config_ = std::move(config).value();
  out->gguf_ = std::move(file).value();
  return std::unique_ptr<Checkpoint>(std::move(out));
}

Status LoadedCheckpoint::take(const SafetensorsFile& file, const std::string& name) {
  // Rope's frequencies, which some old files carry along: computed from the config instead.
  if (name.ends_with("rotary_emb.inv_freq")) return ok_status();
  if (const auto it = file.unsupported().find(name); it != file.unsupported().end()) {
    return bad_tensor(
        file.path(), name,
        "has type " + it->second +
            ": only F32, F16, BF16 and F8_E4M3 are supported, use the unquantised model or a "
            "GGUF file");
  }
  const auto it = file.tensors().find(name);
  if (it == file.tensors().end()) {
    return bad_tensor(file.path(), name,
                      "is missing, though the index says it is here: fetch the model again");
  }
  if (!tensors_.emplace(canonical_from_hf(name), Stored{it->second, file.path()}).second) {
    return bad_tensor(file.path(), name, "occurs twice: the files do not belong together");
  }
  return ok_status();
}

Status LoadedCheckpoint::add_shard(const std::string& path) {
  auto file = SafetensorsFile::open(path);
  if (!file) return file.error();
  shards_.push_back(std::move(file).value());
  const SafetensorsFile& shard = *shards_.back();
  for (const auto& [name, view] : shard.tensors()) {
    if (Status status = take(shard, name); !status.ok()) return status;
  }
  for (const auto& [name, type] : shard.unsupported()) {
    if (Status status = take(shard, name); !status.ok()) return status;
  }
  return ok_status();
}

/// A shard's name in the index must be a plain file name: it may not lead out of the directory.
bool is_plain_name(const std::string& name) {
  return name.size() <= 255 && name.ends_with(".safetensors") && name.front() != '.' &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
}

Status LoadedCheckpoint::add_indexed(const std::string& directory, const std::string& index) {
  const Result<nlohmann::json> tree = read_json_file(index);
  if (!tree) return tree.error();
  const auto map = tree->find("weight_map");
  if (map == tree->end() || !map->is_object()) {
    return fail(ErrorCode::kBadModel, index + ": 'weight_map' is missing: fetch the file again");
  }
  std::map<std::string, const SafetensorsFile*> open;
  for (const auto& [tensor, where] : map->items()) {
    const std::string name = where.is_string() ? where.get<std::string>() : "";
    if (name.empty() || !is_plain_name(name)) {
      return fail(ErrorCode::kBadModel, index + ": tensor '" + printable(tensor) +
                                            "' is said to be in '" + printable(name) +
                                            "', which is no *.safetensors file of this directory");
    }
    const SafetensorsFile*& shard = open[name];
    if (shard == nullptr) {
      auto file = SafetensorsFile::open((fs::path(directory) / name).string());
      if (!file) return file.error();
      shards_.push_back(std::move(file).value());
      shard = shards_.back().get();
    }
    if (Status status = take(*shard, tensor); !status.ok()) return status;
  }
  return ok_status();
}

/// Paths of the files in `directory` whose name ends with `ending`, sorted.
std::vector<std::string> files_ending(const std::string& directory, std::string_view ending) {
  std::vector<std::string> out;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.ends_with(ending)) out.push_back(it->path().string());
  }
  std::sort(out.begin(), out.end());
  return out;
}

Result<std::unique_ptr<Checkpoint>> LoadedCheckpoint::from_hf(const std::string& directory) {
  Result<ModelConfig> config = config_from_hf(directory);
  if (!config) return config.error();
  auto out = std::make_unique<LoadedCheckpoint>();
  out->path_ = directory;
  std::error_code error;
  const std::string index = directory + "/model.safetensors.index.json";
  const std::string single = directory + "/model.safetensors";
  const std::vector<std::string> others = files_ending(directory, ".safetensors");
  Status status = ok_status();
  if (fs::exists(index, error)) {
    status = out->add_indexed(directory, index);
  } else if (fs::exists(single, error)) {
    status = out->add_shard(single);
  } else if (others.size() == 1) {
    status = out->add_shard(others.front());
  } else if (others.empty()) {
    return fail(ErrorCode::kNotFound,
                directory + ": no *.safetensors file: fetch the weights in that format");
  } else {
    return fail(ErrorCode::kNotFound, directory +
                                          ": several *.safetensors files but no "
                                          "model.safetensors.index.json: fetch the index");
  }
  if (status.ok()) status = check_tensors(out->tensors_, *config, directory, false);
  if (!status.ok()) return status.error();
  out->config_ = std::move(config).value();
  return std::unique_ptr<Checkpoint>(std::move(out));
}

}  // namespace

Result<bool> has_e4m3_layers(const Checkpoint& checkpoint) {
  const TensorView* plain = nullptr;
  const TensorView* e4m3 = nullptr;
  for (int32_t i = 0; i < checkpoint.config().n_layers; ++i) {
    for (const char* name : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                             "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
      const TensorView* t = checkpoint.find("layers." + std::to_string(i) + "." + name + ".weight");
      if (t == nullptr) continue;
      const TensorView*& kind = t->dtype == DType::kF8E4M3 ? e4m3 : plain;
      if (kind == nullptr) kind = t;
    }
  }
  if (plain == nullptr || e4m3 == nullptr) return e4m3 != nullptr;
  return fail(ErrorCode::kBadModel,
              checkpoint.path() + ": tensor '" + printable(plain->name) + "' has type " +
                  std::string(to_string(plain->dtype)) + ", but '" + printable(e4m3->name) +
                  "' F8_E4M3: choose --weights bf16, or --weights fp8 to quantise the rest too",
              "weights");
}

Result<std::unique_ptr<Checkpoint>> Checkpoint::open(const std::string& path) {
  if (path.empty()) {
    return fail(ErrorCode::kInvalidArgument, "no model given: name a GGUF file or a directory",
                "model");
  }
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    // Whatever its name, a file is taken for GGUF: opening it says what is wrong with it.
    if (path.ends_with(".safetensors") || path.ends_with(".json")) {
      return fail(ErrorCode::kBadModel,
                  path + ": name the directory that holds this file, not the file");
    }
    return LoadedCheckpoint::from_gguf(path);
  }
  const std::vector<std::string> ggufs = files_ending(path, ".gguf");
  // Directories of GGUF files often keep the config.json of the original.
  const bool has_weights = !files_ending(path, ".safetensors").empty();
  if (ggufs.size() == 1 && !has_weights) return LoadedCheckpoint::from_gguf(ggufs.front());
  if (fs::exists(path + "/config.json", error)) return LoadedCheckpoint::from_hf(path);
  return fail(ErrorCode::kNotFound,
              path + (ggufs.empty() ? ": neither config.json nor a GGUF file in this directory"
                                    : ": several GGUF files in this directory: name one of them"));
}

}  // namespace troupe
