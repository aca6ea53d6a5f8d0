#include "gpu/model/checkpoint_checks.h"

#include "gpu/model/checkpoint_names.h"
#include "gpu/model/mapped_file.h"
#include "gpu/quant/dequantize.h"

#include <cmath>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe {

Error bad_tensor(const std::string& file, const std::string& name, const std::string& what) {
  return fail(ErrorCode::kBadModel, file + ": tensor '" + printable(name) + "' " + what);
}

namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    out += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return out + "]";
}

/// "layers.3.mlp.up_proj.weight" -> "layers.3.mlp.up_proj.weight_scale".
std::string scale_name(const std::string& matrix) { return matrix + "_scale"; }

bool is_plain(DType t) { return block_elements(t) == 1 && t != DType::kF8E4M3; }

int64_t count_of(const TensorView& t) {
  int64_t n = 1;
  for (const int64_t d : t.shape) n *= d;
  return n;
}

/// A scale of zero is that of a row of zeros; nothing else can be meant by a value that is no
/// positive number.
Status check_scale_values(const Stored& scale) {
  const TensorView& t = scale.view;
  std::vector<float> values(static_cast<size_t>(count_of(t)));
  dequantize_row(t.dtype, t.data, 0, static_cast<int64_t>(values.size()), values.data());
  for (const float v : values) {
    if (std::isfinite(v) && v >= 0.0F) continue;
    return bad_tensor(
        scale.file, t.name,
        "has a scale that is no positive number: the file is damaged, fetch it again");
  }
  return ok_status();
}

/// An e4m3 matrix has a scale, one for all or one a row, as compressed-tensors and ModelOpt write
/// it.
Status check_scale(const StoredTensors& tensors, const Stored& matrix, const std::string& name) {
  const auto it = tensors.find(scale_name(name));
  if (it != tensors.end()) {
    const TensorView& scale = it->second.view;
    const int64_t n = count_of(scale);
    if (is_plain(scale.dtype) && (n == 1 || n == matrix.view.rows())) {
      return check_scale_values(it->second);
    }
    return bad_tensor(it->second.file, scale.name,
                      "has shape " + shape_text(scale.shape) + " for a matrix of shape " +
                          shape_text(matrix.view.shape) +
                          ": only one scale, or one a row, is supported; use a model quantised "
                          "per tensor or channel, or the unquantised one");
  }
  const bool blocks = tensors.contains(name + "_scale_inv");
  return bad_tensor(matrix.file, matrix.view.name,
                    std::string("has type F8_E4M3 but no weight_scale of one value or one a row") +
                        (blocks ? ": scales a block are not supported; use a model quantised per "
                                  "tensor or channel, or the unquantised one"
                                : ": the model is incomplete, fetch it again"));
}

/// Beside an e4m3 model's weights: scales of activations, which get one per token as they come.
bool is_unused_scale(std::string_view name) {
  for (const std::string_view end : {"_proj.input_scale", "_proj.output_scale", ".q_scale"}) {
    if (name.ends_with(end)) return true;
  }
  return false;
}

/// The scales of an e4m3 KV cache that are there, appended to `known`.
Status check_kv_scales(const StoredTensors& tensors, int32_t n_layers,
                       std::set<std::string, std::less<>>& known) {
  for (int32_t i = 0; i < n_layers; ++i) {
    for (const char* which : {"k_scale", "v_scale"}) {
      std::string name = "layers." + std::to_string(i) + ".self_attn." + which;
      const auto it = tensors.find(name);
      if (it == tensors.end()) continue;
      const TensorView& scale = it->second.view;
      if (!is_plain(scale.dtype) || count_of(scale) != 1) {
        return bad_tensor(it->second.file, scale.name,
                          "has shape " + shape_text(scale.shape) + " and type " +
                              std::string(to_string(scale.dtype)) +
                              ": only one scale a layer is supported for the KV cache");
      }
      float value = 0.0F;
      dequantize_row(scale.dtype, scale.data, 0, 1, &value);
      if (!std::isfinite(value) || value <= 0.0F) {
        return bad_tensor(it->second.file, scale.name,
                          "is no positive number: the file is damaged, fetch it again");
      }
      known.insert(std::move(name));
    }
  }
  return ok_status();
}

}  // namespace

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
    if (view.shape.size() == 1 &&
        (vectors_f32 ? view.dtype != DType::kF32 : !is_plain(view.dtype))) {
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
  if (Status status = check_kv_scales(tensors, config.n_layers, known); !status) return status;
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

}  // namespace troupe
