#pragma once

#include "gpu/base/result.h"
#include "gpu/base/tensor_view.h"
#include "gpu/model/mapped_file.h"

#include <map>
#include <memory>
#include <string>
#include <string_view>

namespace troupe {

/// One *.safetensors file, memory-mapped. Format: 8 bytes header length, JSON header, data
/// (huggingface/safetensors). Hostile-input safe: tensors lie in the file, back to back, each as
/// large as its shape says. Immutable; any thread.
class SafetensorsFile {
 public:
  /// kNotFound, kIo; kBadModel naming the file and, where there is one, the tensor.
  static Result<std::unique_ptr<SafetensorsFile>> open(const std::string& path);

  [[nodiscard]] const std::string& path() const { return file_.path(); }
  /// Tensors in F32, F16, BF16 or F8_E4M3, aligned to their element. A scalar has an empty shape.
  [[nodiscard]] const std::map<std::string, TensorView, std::less<>>& tensors() const {
    return tensors_;
  }
  /// The other tensors with the name of their type, for messages: harmless as long as nobody needs
  /// them.
  [[nodiscard]] const std::map<std::string, std::string, std::less<>>& unsupported() const {
    return unsupported_;
  }

 private:
  explicit SafetensorsFile(MappedFile file) : file_(std::move(file)) {}
  Status parse();

  MappedFile file_;
  std::map<std::string, TensorView, std::less<>> tensors_;
  std::map<std::string, std::string, std::less<>> unsupported_;
};

}  // namespace troupe
