#pragma once

#include "gpu/base/result.h"

#include <nlohmann/json.hpp>

#include <string>

namespace troupe {

/// What a Hugging Face directory says about quantised weights: `quantization_config` in config.json
/// (`config`), or the hf_quant_config.json beside it that ModelOpt writes. Fine are none and e4m3
/// with one scale a tensor or channel, by compressed-tensors, ModelOpt or AutoFP8, with a KV cache
/// that is not quantised or e4m3. kBadModel for all else: the file, what the weights are, what to
/// do. How activations were meant to be quantised does not matter: they get a scale per token.
Status check_quantization(const nlohmann::json& config, const std::string& directory);

}  // namespace troupe
