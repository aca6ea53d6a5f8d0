#pragma once

#include "gpu/base/result.h"
#include "gpu/model/config.h"
#include "gpu/model/gguf.h"

#include <string>

namespace troupe {

/// The shape described by a GGUF file's metadata (architectures llama, qwen2, qwen3), rope
/// resolved, tensors not looked at except token_embd.weight (vocabulary), output.weight (tied
/// head), biases, q/k norms and rope_freqs.weight. kBadModel with the key named. Passes
/// check_config().
Result<ModelConfig> config_from_gguf(const GgufFile& file);

/// The shape described by config.json and generation_config.json of a Hugging Face directory
/// (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM), rope resolved.
/// kBadModel with file and field named. Passes check_config().
///
/// Rope scaling of type linear, llama3 and yarn is applied; yarn raises max_context to factor x
/// original context. Type dynamic changes nothing within max_position_embeddings, which stays the
/// limit. Other types are refused.
Result<ModelConfig> config_from_hf(const std::string& directory);

}  // namespace troupe
