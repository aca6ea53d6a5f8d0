#pragma once

#include "gpu/base/result.h"
#include "gpu/model/config.h"
#include "gpu/sim/coefficients.h"

#include <cstdint>
#include <string>

namespace troupe {

/// Bytes of one weight or of one KV element: bf16 or fp8.
enum class SimType : uint8_t { kBf16, kFp8 };
Result<SimType> parse_sim_type(const std::string& text, const std::string& option);
[[nodiscard]] const char* name_of(SimType type);

/// What one step asks of every rank of a replica.
struct StepWork {
  int64_t tokens = 0;      // computed: decodes and prefill chunks
  int64_t sampled = 0;     // rows whose next token is chosen
  int64_t kv_tokens = 0;   // cached tokens read, summed over rows
  double score_pairs = 0;  // query-key pairs inside prefill chunks (of more than one token)
};

/// Microseconds of one step, term by term.
struct StepCost {
  double linear = 0;      // weights and GEMM of the layers
  double head = 0;        // output matrix
  double kv = 0;          // attention of decoding rows
  double attention = 0;   // attention of prefill chunks
  double activation = 0;  // traffic between the matrix products
  double all_reduce = 0;
  double launch = 0;
  double host = 0;
  [[nodiscard]] double total() const {
    return linear + head + kv + attention + activation + all_reduce + launch + host;
  }
};

/// Microseconds of a matrix product of `tokens` rows with `weights` elements: reading them and the
/// arithmetic, joined by the device's exponent.
[[nodiscard]] double gemm_us(const DeviceCoefficients& device, double tokens, double weights,
                             SimType type);

/// A roofline model of one rank of a TP group. Immutable.
class CostModel {
 public:
  /// kInvalidArgument when `tp` cannot be: below one or above the number of heads.
  static Result<CostModel> create(const ModelConfig& model, const DeviceCoefficients& device,
                                  int32_t tp, SimType weights, SimType kv);

  [[nodiscard]] StepCost cost(const StepWork& work) const;

  [[nodiscard]] int64_t weight_bytes() const { return weight_bytes_; }        // of one rank
  [[nodiscard]] int64_t kv_bytes_per_token() const { return kv_per_token_; }  // of one rank
  /// Tokens that the KV pool of a replica holds; kOutOfMemory with the numbers when the weights
  /// leave room for none.
  [[nodiscard]] Result<int32_t> pool_slots() const;

  [[nodiscard]] const ModelConfig& model() const { return model_; }
  [[nodiscard]] const DeviceCoefficients& device() const { return device_; }
  [[nodiscard]] int32_t tp() const { return tp_; }

 private:
  CostModel(ModelConfig model, DeviceCoefficients device, int32_t tp, SimType weights, SimType kv);
  ModelConfig model_;
  DeviceCoefficients device_;
  int32_t tp_;
  SimType weights_;
  double matrices_[4] = {};      // elements of qkv, o, gate_up, down on one rank
  double head_ = 0;              // of the output matrix
  double activation_bytes_ = 0;  // per token and layer
  int64_t kv_per_token_ = 0;
  int64_t weight_bytes_ = 0;
};

}  // namespace troupe
