#pragma once

#include "gpu/base/result.h"
#include "gpu/base/tensor_view.h"

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace troupe {

/// One metadata value. Integers of all widths become int64_t (uint64 above int64's range is
/// refused), floats double; arrays are homogeneous.
using GgufValue = std::variant<int64_t, double, bool, std::string, std::vector<int64_t>,
                               std::vector<double>, std::vector<bool>, std::vector<std::string>>;

/// A GGUF v2/v3 file, memory-mapped. Format: ggml's docs/gguf.md. Hostile-input safe.
class GgufFile {
 public:
  static Result<std::unique_ptr<GgufFile>> open(const std::string& path);
  ~GgufFile();

  [[nodiscard]] const std::string& path() const;
  [[nodiscard]] const std::map<std::string, GgufValue, std::less<>>& metadata() const;
  [[nodiscard]] const std::map<std::string, TensorView, std::less<>>& tensors() const;

  /// The value under `key` if present and of that kind, else null.
  template <class T>
  [[nodiscard]] const T* get(std::string_view key) const {
    const auto it = metadata().find(key);
    return it == metadata().end() ? nullptr : std::get_if<T>(&it->second);
  }

 private:
  GgufFile();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace troupe
