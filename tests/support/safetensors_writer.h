#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::test {

/// A safetensors file from a header text that may be wrong on purpose.
inline std::string safetensors_bytes(std::string_view header, std::string_view data) {
  std::string out(8, '\0');
  const uint64_t n = header.size();
  std::memcpy(out.data(), &n, sizeof n);
  out += header;
  out += data;
  return out;
}

/// Builds a safetensors file in memory, laid out as the reference implementation does: header
/// padded with spaces to 8 bytes, tensors back to back in the order they were added.
class SafetensorsWriter {
 public:
  void tensor(std::string_view name, std::string_view dtype, const std::vector<int64_t>& shape,
              std::string_view data) {
    if (!header_.empty()) header_ += ',';
    header_ += '"';
    header_ += name;
    header_ += R"(":{"dtype":")";
    header_ += dtype;
    header_ += R"(","shape":[)";
    for (size_t i = 0; i < shape.size(); ++i) {
      if (i != 0) header_ += ',';
      header_ += std::to_string(shape[i]);
    }
    header_ += R"(],"data_offsets":[)";
    header_ += std::to_string(data_.size()) + "," + std::to_string(data_.size() + data.size());
    header_ += "]}";
    data_ += data;
  }
  [[nodiscard]] std::string bytes() const {
    std::string header = R"({"__metadata__":{"format":"pt"})";
    if (!header_.empty()) header += ',';
    header += header_ + "}";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    return safetensors_bytes(header, data_);
  }

 private:
  std::string header_;
  std::string data_;
};

}  // namespace troupe::test
