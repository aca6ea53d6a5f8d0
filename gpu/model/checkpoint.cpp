#include "gpu/model/checkpoint.h"

#include "gpu/model/checkpoint_names.h"
#include "gpu/model/config_sources.h"
#include "gpu/model/gguf.h"
#include "gpu/model/json_file.h"
#include "gpu/model/mapped_file.h"
#include "gpu/model/safetensors.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace troupe {
namespace {

namespace fs = std::filesystem;

/// A tensor and the file it lies in, for messages.
struct Stored {
  TensorView view;
  std::string file;
};
using StoredTensors = std::map<std::string, Stored, std::less<>>;

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    out += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return out + "]";
}

Error bad_tensor(const std::string& file, const std::string& name, const std::string& what) {
  return fail(ErrorCode::kBadModel, file + ": tensor '" + printable(name) + "' " + what);
}

/// "layers.3.mlp.up_proj.weight" -> "layers.3.mlp.up_proj.weight_scale".
std::string scale_name(const std::string& matrix) { return matrix + "_scale"; }

/// An e4m3 matrix has a scale, one for all or one a row, as compressed-tensors and ModelOpt write
/// it.
Status check_scale(const StoredTensors& tensors, const Stored& matrix, const std::string& name) {
  const auto it = tensors.find(scale_name(name));
  if (it != tensors.end()) {
    const TensorView& scale = it->second.view;
    int64_t n = 1;
    for (const int64_t d : scale.shape) n *= d;
    const bool plain = block_elements(scale.dtype) == 1 && scale.dtype != DType::kF8E4M3;
    if (plain && (n == 1 || n == matrix.view.rows())) return ok_status();
  }
  return bad_tensor(matrix.file, matrix.view.name,
                    "has type F8_E4M3 but no weight_scale of one value or one a row");
}

/// Beside an e4m3 model's weights: scales of activations and of the KV cache. They are not used:
/// activations get a scale per token as they come, the KV cache one of its own.
bool is_unused_scale(std::string_view name) {
  for (const std::string_view end :
       {"_proj.input_scale", "_proj.output_scale", ".k_scale", ".v_scale", ".q_scale"}) {
    if (name.ends_with(end)) return true;
  }
  return false;
}

/// Every tensor the config asks for is there with its shape and a usable type, and no tensor is
/// there that the forward pass would silently leave out.
Status check_tensors(const StoredTensors& tensors, const ModelConfig& config,
                     const std::string& path, bool vectors_f32) {
  std::set<std::string, std::less<>> known;
  bool has_e4m3 = false;
  for (ExpectedTensor& want : expected_tensors(config)) {
    const auto it = tensors.find(want.name);
    if (it == tensors.end()) {
      return bad_tensor(path, want.name, "is missing: the model is incomplete, fetch it again");
    }
    const TensorView& view = it->second.view;
    if (view.shape != want.shape) {
      return bad_tensor(it->second.file, view.name,
                        "has shape " + shape_text(view.shape) +
                            ", but the configuration asks for " + shape_text(want.shape) +
                            ": the files do not belong together");
    }
    const bool plain = block_elements(view.dtype) == 1 && view.dtype != DType::kF8E4M3;
    if (view.shape.size() == 1 && (vectors_f32 ? view.dtype != DType::kF32 : !plain)) {
      return bad_tensor(it->second.file, view.name,
                        "has type " + std::string(to_string(view.dtype)) +
                            ", a norm or bias must be F32: convert the model again");
    }
    if (view.dtype == DType::kF8E4M3) {
      has_e4m3 = true;
      if (Status status = check_scale(tensors, it->second, want.name); !status.ok()) return status;
      known.insert(scale_name(want.name));
    }
    known.insert(std::move(want.name));
  }
  for (const auto& [name, stored] : tensors) {
    const bool spare_head = config.tied_head && name == "lm_head.weight";
    if (known.count(name) == 0 && !spare_head && !(has_e4m3 && is_unused_scale(name))) {
      return bad_tensor(stored.file, stored.view.name,
                        "is not part of a " + config.architecture +
                            " model as supported here: leaving it out would change the answers");
    }
  }
  return ok_status();
}

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
