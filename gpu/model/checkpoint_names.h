#pragma once

#include "gpu/base/dtype.h"
#include "gpu/model/config.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe {

/// A tensor that a model of some config must have.
struct ExpectedTensor {
  std::string name;  // canonical, see checkpoint.h
  std::vector<int64_t> shape;
};

/// Every tensor of the model, by canonical name and shape.
std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config);

/// "blk.3.ffn_up.weight" -> "layers.3.mlp.up_proj.weight"; none when the name is no part of these
/// families.
std::optional<std::string> canonical_from_gguf(std::string_view name);
/// "model.layers.3..." -> "layers.3...", scales of the KV cache whatever tool wrote them ->
/// "layers.3.self_attn.k_scale"; other names stay.
std::string canonical_from_hf(std::string_view name);

}  // namespace troupe
