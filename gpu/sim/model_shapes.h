#pragma once

#include "gpu/base/result.h"
#include "gpu/model/config.h"

#include <string>
#include <vector>

namespace troupe {

/// The shape of a model that need not be here: a built-in name ("llama-3-70b", any case), a
/// config.json or the directory that holds one, or a GGUF file. No weights are read. kNotFound
/// lists the built-in names; kBadModel as Checkpoint::open().
Result<ModelConfig> find_model_shape(const std::string& name_or_path);

/// The built-in names, smallest model first.
[[nodiscard]] std::vector<std::string> model_shape_names();

}  // namespace troupe
