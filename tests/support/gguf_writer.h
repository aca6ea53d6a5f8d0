#pragma once

#include "gpu/base/dtype.h"

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::test {

/// ggml's number for a tensor format.
inline uint32_t ggml_type(DType t) {
  switch (t) {
    case DType::kF32: return 0;
    case DType::kF16: return 1;
    case DType::kQ4_0: return 2;
    case DType::kQ4_1: return 3;
    case DType::kQ5_0: return 6;
    case DType::kQ5_1: return 7;
    case DType::kQ8_0: return 8;
    case DType::kQ4_K: return 12;
    case DType::kQ6_K: return 14;
    case DType::kBF16: return 30;
    case DType::kF8E4M3: break;  // not in GGUF
  }
  return 0;
}

/// GGUF's numbers for metadata value types.
enum GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

/// Little-endian bytes, appended. The building block for files that are wrong on purpose.
class ByteWriter {
 public:
  template <class T>
  ByteWriter& put(T value) {
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    bytes_.append(raw, sizeof(T));
    return *this;
  }
  ByteWriter& text(std::string_view s) {
    put(static_cast<uint64_t>(s.size()));
    bytes_.append(s);
    return *this;
  }
  ByteWriter& raw(std::string_view s) {
    bytes_.append(s);
    return *this;
  }
  [[nodiscard]] const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

/// Builds a GGUF file in memory: `GgufWriter w; w.kv("general.architecture", "llama");
/// w.tensor("a", DType::kF32, {rows, cols}, bytes); write(w.bytes());`. Shapes are row-major with
/// the innermost dimension last, as in TensorView.
class GgufWriter {
 public:
  uint32_t version = 3;
  uint32_t alignment = 32;

  void kv(std::string_view key, std::string_view v) { head(key, kString).text(v); }
  void kv(std::string_view key, const char* v) { kv(key, std::string_view(v)); }
  void kv(std::string_view key, uint32_t v) { head(key, kU32).put(v); }
  void kv(std::string_view key, int32_t v) { head(key, kI32).put(v); }
  void kv(std::string_view key, uint64_t v) { head(key, kU64).put(v); }
  void kv(std::string_view key, int64_t v) { head(key, kI64).put(v); }
  void kv(std::string_view key, uint8_t v) { head(key, kU8).put(v); }
  void kv(std::string_view key, int8_t v) { head(key, kI8).put(v); }
  void kv(std::string_view key, uint16_t v) { head(key, kU16).put(v); }
  void kv(std::string_view key, int16_t v) { head(key, kI16).put(v); }
  void kv(std::string_view key, float v) { head(key, kF32).put(v); }
  void kv(std::string_view key, double v) { head(key, kF64).put(v); }
  void kv(std::string_view key, bool v) { head(key, kBool).put(static_cast<uint8_t>(v)); }
  void kv(std::string_view key, const std::vector<std::string>& v) {
    auto& out = array(key, kString, v.size());
    for (const std::string& s : v) out.text(s);
  }
  void kv(std::string_view key, const std::vector<int32_t>& v) { numbers(key, kI32, v); }
  void kv(std::string_view key, const std::vector<uint32_t>& v) { numbers(key, kU32, v); }
  void kv(std::string_view key, const std::vector<float>& v) { numbers(key, kF32, v); }
  void kv(std::string_view key, const std::vector<bool>& v) {
    auto& out = array(key, kBool, v.size());
    for (const bool b : v) out.put(static_cast<uint8_t>(b));
  }
  /// A metadata entry whose value bytes are given as they are.
  void kv_raw(std::string_view key, uint32_t type, std::string_view value) {
    head(key, type).raw(value);
  }

  void tensor(std::string_view name, DType type, const std::vector<int64_t>& shape,
              const std::string& data) {
    std::vector<uint64_t> dims;
    for (auto it = shape.rbegin(); it != shape.rend(); ++it) {
      dims.push_back(static_cast<uint64_t>(*it));
    }
    tensor_raw(name, ggml_type(type), dims, data_.size(), data);
  }
  /// A tensor entry with the numbers of the file (innermost dimension first), right or wrong.
  void tensor_raw(std::string_view name, uint32_t type, const std::vector<uint64_t>& dims,
                  uint64_t offset, const std::string& data) {
    ++n_tensors_;
    infos_.text(name).put(static_cast<uint32_t>(dims.size()));
    for (const uint64_t d : dims) infos_.put(d);
    infos_.put(type).put(offset);
    data_ += data;
    data_.resize((data_.size() + alignment - 1) / alignment * alignment);
  }

  /// Everything before the tensor data, padding excluded.
  [[nodiscard]] std::string header() const {
    ByteWriter out;
    out.raw("GGUF").put(version).put(n_tensors_).put(n_kv_);
    out.raw(kvs_.bytes()).raw(infos_.bytes());
    return out.bytes();
  }
  [[nodiscard]] std::string bytes() const {
    std::string out = header();
    out.resize((out.size() + alignment - 1) / alignment * alignment);
    return out + data_;
  }

 private:
  ByteWriter& head(std::string_view key, uint32_t type) {
    ++n_kv_;
    return kvs_.text(key).put(type);
  }
  ByteWriter& array(std::string_view key, uint32_t type, size_t n) {
    return head(key, kArray).put(type).put(static_cast<uint64_t>(n));
  }
  template <class T>
  void numbers(std::string_view key, uint32_t type, const std::vector<T>& v) {
    auto& out = array(key, type, v.size());
    for (const T x : v) out.put(x);
  }

  uint64_t n_kv_ = 0;
  uint64_t n_tensors_ = 0;
  ByteWriter kvs_;
  ByteWriter infos_;
  std::string data_;
};

}  // namespace troupe::test
