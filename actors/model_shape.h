#pragma once

#include "gpu/model/config.h"

#include <string>

namespace troupe {

inline constexpr const char* kVersion = "0.1.0";

/// The numbers that must agree between a rank's checkpoint and the gateway's.
inline std::string model_shape(const ModelConfig& c) {
  return c.architecture + "/" + std::to_string(c.n_layers) + "x" + std::to_string(c.hidden) + "/h" +
         std::to_string(c.n_heads) + "kv" + std::to_string(c.n_kv_heads) + "d" +
         std::to_string(c.head_dim) + "/f" + std::to_string(c.ffn) + "/v" + std::to_string(c.vocab);
}

}  // namespace troupe
