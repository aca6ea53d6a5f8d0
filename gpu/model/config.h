#pragma once

#include "gpu/base/result.h"

#include <cstdint>
#include <string>
#include <vector>

namespace troupe {

/// Rotary embedding parameters, scaling resolved into per-pair inverse frequencies.
struct RopeConfig {
  bool interleaved = false;  // GGUF's llama converter permutes q/k for interleaved pairs
  int32_t rotary_dim = 0;
  std::vector<float> inverse_frequency;  // [rotary_dim / 2]: theta and any scaling (linear, llama3,
                                         // dynamic-free yarn, GGUF rope_freqs) applied
  float magnitude = 1.0F;
};

/// The shape of a dense decoder: Llama 2/3, Mistral, SmolLM2, Qwen2, Qwen3.
struct ModelConfig {
  std::string architecture;  // "llama", "mistral", "qwen2", "qwen3"
  std::string name;          // for people: general.name or the directory's name
  int32_t n_layers = 0;
  int32_t hidden = 0;
  int32_t n_heads = 0;
  int32_t n_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t ffn = 0;
  int32_t vocab = 0;
  int32_t max_context = 0;
  int32_t sliding_window = 0;  // 0 = none
  float rms_eps = 1e-5F;
  bool qkv_bias = false;
  bool qk_norm = false;
  bool tied_head = false;
  RopeConfig rope;
  std::vector<int32_t> stop_tokens;  // ids that end a turn (eos, eot; generation_config.json)
};

/// Refuses shapes that cannot be: zero, negative, overflowing, heads that do not divide.
[[nodiscard]] Status check_config(const ModelConfig& config);

}  // namespace troupe
