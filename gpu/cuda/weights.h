#pragma once

#include "gpu/base/result.h"
#include "gpu/cuda/device.h"
#include "gpu/cuda/linear.h"
#include "gpu/model/checkpoint.h"
#include "gpu/model/shard.h"

#include <cuda_bf16.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace troupe::cuda {

struct WeightsPlan;

/// One layer's share of a rank, on the device. What the model does not have is null.
struct LayerWeights {
  const __nv_bfloat16* input_norm = nullptr;  // [hidden]
  Weight qkv;                                 // [q | k | v rows of this rank, hidden]
  const __nv_bfloat16* qkv_bias = nullptr;    // [rows of qkv]
  const __nv_bfloat16* q_norm = nullptr;      // [head_dim]
  const __nv_bfloat16* k_norm = nullptr;      // [head_dim]
  Weight o;                                   // [hidden, q columns of this rank]
  const __nv_bfloat16* o_bias = nullptr;      // [hidden], the first rank only
  const __nv_bfloat16* post_norm = nullptr;   // [hidden]
  Weight gate_up;                             // [gate | up rows of this rank, hidden]
  Weight down;                                // [hidden, MLP columns of this rank]
  float k_scale = 1.0F;                       // of an e4m3 KV cache, see KvLayer
  float v_scale = 1.0F;
};

/// One rank's share of a model in device memory, in one allocation. Norms, biases, embedding and
/// head are bf16 whatever the format; `format` is that of the four matrices of a layer. Immutable
/// once made, so any stream may read it.
class Weights {
 public:
  /// Exactly what the weights will take, before anything is read. `o_bias`: this rank adds one.
  static size_t bytes(const ModelConfig& config, const Shard& shard, WeightFormat format,
                      bool o_bias = false);

  /// Reads the share that `shard` names; `first_rank` adds the biases of row-parallel layers. Plain
  /// and GGUF block formats become bf16, or e4m3 with one scale a row; e4m3 checkpoints are taken
  /// as they are, or expanded to bf16. Blocks until all is on the device. kOutOfMemory with the
  /// numbers; kBadModel or kIo naming file and tensor.
  static Result<std::unique_ptr<Weights>> load(const Checkpoint& checkpoint, const Shard& shard,
                                               bool first_rank, WeightFormat format,
                                               int32_t n_threads = 8);

  /// Random weights made on the device, for measuring (--load-format dummy): matrices normal with
  /// standard deviation 1 / sqrt(columns of the whole model), norms one, biases zero.
  static Result<std::unique_ptr<Weights>> random(const ModelConfig& config, const Shard& shard,
                                                 WeightFormat format, uint64_t seed = 1);

  [[nodiscard]] const LayerWeights& layer(int32_t i) const {
    return layers_[static_cast<size_t>(i)];
  }
  /// [vocabulary rows of this rank, hidden]
  [[nodiscard]] const __nv_bfloat16* embedding() const { return embedding_; }
  [[nodiscard]] const __nv_bfloat16* final_norm() const { return final_norm_; }  // [hidden]
  /// [vocabulary rows of this rank, hidden], bf16; the embedding itself when tied.
  [[nodiscard]] const Weight& head() const { return head_; }
  [[nodiscard]] size_t bytes() const { return memory_.bytes(); }

 private:
  Weights() = default;
  static std::unique_ptr<Weights> lay_out(const WeightsPlan& plan, DeviceBuffer<std::byte> memory);
  void read_kv_scales(const Checkpoint& checkpoint);

  DeviceBuffer<std::byte> memory_;
  std::vector<LayerWeights> layers_;
  const __nv_bfloat16* embedding_ = nullptr;
  const __nv_bfloat16* final_norm_ = nullptr;
  Weight head_;
};

/// The format that the checkpoint's own matrices come in: fp8 for e4m3 checkpoints, else bf16;
/// kBadModel for a mix.
Result<WeightFormat> stored_format(const Checkpoint& checkpoint);

}  // namespace troupe::cuda
