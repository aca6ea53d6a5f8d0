#pragma once

#include "gpu/base/result.h"
#include "gpu/base/tensor_view.h"
#include "gpu/model/config.h"

#include <map>
#include <string>

/// Inside of Checkpoint::open(): what the files hold against what the configuration asks for.
namespace troupe {

/// A tensor and the file it lies in, for messages.
struct Stored {
  TensorView view;
  std::string file;
};
/// By canonical name, see checkpoint.h.
using StoredTensors = std::map<std::string, Stored, std::less<>>;

/// kBadModel naming file and tensor.
Error bad_tensor(const std::string& file, const std::string& name, const std::string& what);

/// Every tensor the config asks for is there with its shape and a usable type, e4m3 matrices and KV
/// caches with scales that the ranks know, and no tensor is there that the forward pass would
/// silently leave out. `vectors_f32`: norms and biases must be F32.
Status check_tensors(const StoredTensors& tensors, const ModelConfig& config,
                     const std::string& path, bool vectors_f32);

}  // namespace troupe
