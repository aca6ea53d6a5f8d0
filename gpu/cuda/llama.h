#pragma once

#include "gpu/cuda/attention.h"
#include "gpu/cuda/device.h"
#include "gpu/cuda/linear.h"
#include "gpu/cuda/linear_gated.h"
#include "gpu/cuda/ops.h"
#include "gpu/cuda/weights.h"
#include "gpu/model/config.h"
#include "gpu/model/shard.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace troupe {
class Communicator;
}

namespace troupe::cuda {

/// The bytes behind the slots on the device: per layer [slot][kv_head][K | V][head_dim] for this
/// rank's heads, and one spare slot at the end for padding.
class KvPool {
 public:
  KvPool(int32_t n_layers, int32_t n_slots, const AttentionShape& shape, KvFormat format);
  static size_t bytes_per_slot(int32_t n_layers, const AttentionShape& shape, KvFormat format);

  [[nodiscard]] int32_t n_slots() const { return n_slots_; }
  [[nodiscard]] size_t bytes() const { return memory_.bytes(); }
  [[nodiscard]] KvLayer layer(int32_t i) const {
    return {memory_.data() + static_cast<size_t>(i) * layer_bytes_, format_};
  }

 private:
  int32_t n_slots_;
  size_t layer_bytes_;
  KvFormat format_;
  DeviceBuffer<std::byte> memory_;
};

/// The tokens of one step: rows that compute one token first, then the chunks. Device memory but
/// for `chunks`.
struct StepInput {
  int32_t n_tokens = 0;
  const int32_t* tokens = nullptr;     // [n_tokens]
  const int32_t* positions = nullptr;  // [n_tokens]
  const int32_t* slots = nullptr;      // [n_tokens]
  DecodeBatch decode;                  // tokens [0, decode.n_rows); n_rows 0: none
  std::span<const Chunk> chunks;       // host, borrowed for the call
  int32_t n_sampled = 0;
  const int32_t* sampled = nullptr;  // [n_sampled] tokens whose logits are wanted; null: all
};

/// The dense decoder family on one GPU: gpu/model/llama.h with bf16 activations. One rank's share:
/// with several ranks, o and down end in an all-reduce and the logits are gathered, so that every
/// rank samples from the same whole rows. Rank worker thread only.
class Llama {
 public:
  struct Limits {
    int32_t max_tokens = 0;   // of a step
    int32_t max_sampled = 0;  // of a step
    int32_t max_rows = 0;     // that decode
    int32_t max_context = 0;
    bool batch_invariant = false;
  };
  /// `communicator` must outlive it.
  Llama(const ModelConfig& config, const Shard& shard, std::unique_ptr<Weights> weights,
        KvFormat kv, const Limits& limits, Communicator& communicator);

  static AttentionShape attention_shape(const ModelConfig& config, const Shard& shard);
  /// Activations and logits, without what attention and linear layers keep for themselves.
  static size_t activation_bytes(const ModelConfig& config, const Shard& shard,
                                 const Limits& limits, int32_t n_ranks);

  /// logits()[i, :] = those of token sampled[i]. Writes K and V of every token. Without chunks it
  /// is capturable.
  void forward(const StepInput& input, const KvPool& kv, cudaStream_t stream);
  /// [n_sampled, vocab()]: this rank's slice with one rank, the whole vocabulary with more.
  [[nodiscard]] float* logits() const {
    return split_.n_ranks > 1 ? joined_.data() : logits_.data();
  }

  static constexpr size_t kLinearWorkspace = size_t{64} << 20;

  [[nodiscard]] size_t weight_bytes() const { return weights_->bytes(); }
  [[nodiscard]] size_t workspace_bytes() const;

  /// Chooses the kernels for steps of n_tokens, of which n_sampled go through the head. Those of
  /// decode steps are timed in a chain of layers. Overwrites activations.
  void tune(int32_t n_tokens, int32_t n_sampled, cudaStream_t stream);
  [[nodiscard]] Linear& linear() { return linear_; }

 private:
  [[nodiscard]] Activation activation(const ActivationOut& out) const {
    return {fp8_ ? static_cast<const void*>(out.codes) : out.data, out.token_scale};
  }
  void attend(const LayerWeights& w, const StepInput& input, const KvLayer& kv,
              cudaStream_t stream);
  void gate_and_up(const LayerWeights& w, int32_t n, cudaStream_t stream);
  void project_and_mlp(const LayerWeights& w, const __nv_bfloat16* attended,
                       __nv_bfloat16* residual, const __nv_bfloat16* next_norm, bool last,
                       int32_t n, cudaStream_t stream);

  /// The sum over ranks of what a row-parallel layer produced in delta_.
  Product all_reduce(const Product& product, int32_t n, cudaStream_t stream);

  ModelConfig config_;
  Shard shard_;
  AttentionShape shape_;
  KvFormat kv_format_;
  Limits limits_;
  Communicator& communicator_;
  VocabularySplit split_;
  int32_t ffn_;
  bool fp8_;
  bool tuning_ = false;  // every rank for itself: sums over ranks are left out
  std::unique_ptr<Weights> weights_;
  DeviceBuffer<float> inverse_frequency_;
  Rope rope_;
  Linear linear_;
  GatedLinear gated_;
  DecodeAttention decode_;
  PrefillAttention prefill_;

  // Activations, [max_tokens, ...]
  DeviceBuffer<__nv_bfloat16> residual_;          // hidden: the stream that layers add to
  DeviceBuffer<__nv_bfloat16> sampled_residual_;  // [max_sampled, hidden]
  DeviceBuffer<__nv_bfloat16> delta_;             // hidden: what a sub-layer adds
  DeviceBuffer<__nv_bfloat16> qkv_;               // (n_heads + 2 n_kv_heads) * head_dim
  DeviceBuffer<__nv_bfloat16> q_;                 // n_heads * head_dim
  DeviceBuffer<__nv_bfloat16> attended_;          // n_heads * head_dim
  DeviceBuffer<__nv_bfloat16> gate_up_;           // 2 * ffn
  DeviceBuffer<float> logits_;                    // [max_sampled, vocab_local]
  DeviceBuffer<float> gathered_;  // [ranks][max_sampled][widest slice], several ranks
  DeviceBuffer<float> joined_;    // [max_sampled, vocab], several ranks
  // What linear layers read, as bf16 or codes; two, so that a product's scales outlive the op that
  // reads them and writes the next ones.
  DeviceBuffer<std::byte> activations_[2];
  DeviceBuffer<float> token_scales_;  // [2][max_tokens]
  ActivationOut hidden_in_;           // of qkv, gate_up, head
  ActivationOut inner_in_;            // of o, down
};

}  // namespace troupe::cuda
