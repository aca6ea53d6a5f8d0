#pragma once

#include <cstdint>
#include <string_view>

namespace troupe {

/// Element and block formats a checkpoint tensor can have. The Q ones are the GGUF formats (ggml's
/// block layouts); gpu/quant/ describes and decodes them. F8 codes mean nothing without the scale
/// that lies beside them in the checkpoint.
enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kF8E4M3,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ4_K,
  kQ6_K
};

/// Elements in one block (1 for plain types, 32 or 256 for quantised ones).
constexpr int64_t block_elements(DType t) {
  switch (t) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kF8E4M3: return 1;
    case DType::kQ4_0:
    case DType::kQ4_1:
    case DType::kQ5_0:
    case DType::kQ5_1:
    case DType::kQ8_0: return 32;
    case DType::kQ4_K:
    case DType::kQ6_K: return 256;
  }
  return 1;
}

/// Bytes of one block.
constexpr int64_t block_bytes(DType t) {
  switch (t) {
    case DType::kF32: return 4;
    case DType::kF16:
    case DType::kBF16: return 2;
    case DType::kF8E4M3: return 1;
    case DType::kQ4_0: return 18;
    case DType::kQ4_1: return 20;
    case DType::kQ5_0: return 22;
    case DType::kQ5_1: return 24;
    case DType::kQ8_0: return 34;
    case DType::kQ4_K: return 144;
    case DType::kQ6_K: return 210;
  }
  return 1;
}

constexpr std::string_view to_string(DType t) {
  switch (t) {
    case DType::kF32: return "F32";
    case DType::kF16: return "F16";
    case DType::kBF16: return "BF16";
    case DType::kF8E4M3: return "F8_E4M3";
    case DType::kQ4_0: return "Q4_0";
    case DType::kQ4_1: return "Q4_1";
    case DType::kQ5_0: return "Q5_0";
    case DType::kQ5_1: return "Q5_1";
    case DType::kQ8_0: return "Q8_0";
    case DType::kQ4_K: return "Q4_K";
    case DType::kQ6_K: return "Q6_K";
  }
  return "?";
}

}  // namespace troupe
