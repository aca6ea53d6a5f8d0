#pragma once

#include "gpu/base/result.h"
#include "gpu/base/tensor_view.h"
#include "gpu/model/config.h"

#include <memory>
#include <string>
#include <string_view>

namespace troupe {

class GgufFile;

/// A model on disk, memory-mapped read-only: one GGUF file, or a Hugging Face directory
/// (config.json, *.safetensors with or without index). Everything is validated at open: a file that
/// is truncated, malformed, of an unknown dtype or inconsistent with its config is refused with the
/// file and the tensor named (kBadModel). Immutable; any thread.
class Checkpoint {
 public:
  static Result<std::unique_ptr<Checkpoint>> open(const std::string& path);
  virtual ~Checkpoint() = default;

  [[nodiscard]] virtual const std::string& path() const = 0;
  [[nodiscard]] virtual const ModelConfig& config() const = 0;
  /// By canonical name, null when absent. Canonical names are those of Hugging Face's Llama
  /// without the prefix: "embed_tokens.weight", "layers.3.self_attn.q_proj.weight" (.bias),
  /// "...k_proj", "...v_proj", "...o_proj", "...q_norm.weight", "...k_norm.weight",
  /// "layers.3.mlp.gate_proj.weight", "up_proj", "down_proj", "layers.3.input_layernorm.weight",
  /// "layers.3.post_attention_layernorm.weight", "norm.weight", "lm_head.weight". A matrix
  /// "X.weight" in F8_E4M3 comes with "X.weight_scale": one value, or one a row. A checkpoint for
  /// an e4m3 KV cache may have "layers.3.self_attn.k_scale" and "v_scale": value = code * scale.
  /// All scales are finite and positive.
  [[nodiscard]] virtual const TensorView* find(std::string_view canonical_name) const = 0;
  /// Where the tokenizer and the chat template live: the GGUF file, or null for a directory.
  [[nodiscard]] virtual const GgufFile* gguf() const = 0;
};

/// Whether the matrices of the layers are e4m3: all or none. kBadModel names one of each kind where
/// they are mixed, because then no format is that of the checkpoint.
Result<bool> has_e4m3_layers(const Checkpoint& checkpoint);

}  // namespace troupe
