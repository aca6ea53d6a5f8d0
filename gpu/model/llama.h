#pragma once

#include "gpu/base/result.h"
#include "gpu/kv_pool.h"
#include "gpu/model/checkpoint.h"
#include "gpu/model/shard.h"
#include "gpu/ops/attention.h"
#include "gpu/ops/linear.h"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace troupe {

class Communicator;
class Stream;

/// The tokens of one forward pass, grouped by row.
struct LlamaInput {
  std::span<const int32_t> tokens;     // [n] vocabulary ids
  std::span<const int32_t> positions;  // [n]
  std::span<const int32_t> slots;      // [n] where each token's K and V go
  std::span<const AttentionRow> rows;  // cover the n tokens in order
  std::span<const int32_t> sampled;    // ascending indices of the tokens whose logits are wanted
};

/// The dense decoder family: Llama 2/3, Mistral, SmolLM2, Qwen2 (q/k/v bias), Qwen3 (q/k norm).
/// One rank's share: its heads, MLP columns and vocabulary rows. Query, K/V, gate and up are split
/// by output; o and down by input, each followed by an all-reduce. Rank worker thread only.
class Llama {
 public:
  /// Bytes this rank's share of the weights takes in memory, known before anything is loaded.
  static int64_t weight_bytes(const Checkpoint& checkpoint, const Shard& shard, WeightMode mode);
  /// Bytes of the activations of `max_tokens` tokens.
  static int64_t workspace_bytes(const ModelConfig& config, const Shard& shard, int32_t max_tokens);

  /// Reads the share that `shard` names. `first_rank` adds the biases of row-parallel layers.
  static Result<std::unique_ptr<Llama>> load(const Checkpoint& checkpoint, Shard shard,
                                             bool first_rank, WeightMode mode, int32_t max_tokens,
                                             Stream& stream);

  /// logits[i, :] = this rank's part of the logits of token sampled[i]; [sampled.size(),
  /// vocab_local]. Writes K and V of every token. At most max_tokens tokens. Collective. A token's
  /// logits are bitwise the same whatever else is in the step.
  void forward(const LlamaInput& input, const KvPool& kv, Communicator& communicator,
               Stream& stream, float* logits);

  [[nodiscard]] const ModelConfig& config() const { return config_; }
  [[nodiscard]] const Shard& shard() const { return shard_; }
  [[nodiscard]] int64_t weight_bytes() const;  // held now

 private:
  struct Layer {
    std::vector<float> input_norm;      // [hidden]
    cpu::Matrix qkv;                    // [q | k | v rows of this rank, hidden]
    std::vector<float> qkv_bias;        // [rows of qkv] or empty
    std::vector<float> q_norm, k_norm;  // [head_dim] or empty
    cpu::Matrix o;                      // [hidden, q columns of this rank]
    std::vector<float> o_bias;          // [hidden] on the first rank, or empty
    std::vector<float> post_norm;       // [hidden]
    cpu::Matrix gate_up;                // [gate | up rows of this rank, hidden]
    cpu::Matrix down;                   // [hidden, MLP columns of this rank]
  };
  class Loader;

  Llama(const ModelConfig& config, Shard shard, int32_t max_tokens);

  void embed(const LlamaInput& input, Communicator& communicator, Stream& stream);
  /// normed_ -> attended_; K and V go to the pool.
  void attend(const Layer& layer, const LlamaInput& input, const KvLayer& kv, Stream& stream);
  /// attended_ -> delta_ (o) -> residual_ and normed_ -> delta_ (MLP), for the first n tokens.
  void project_and_mlp(const Layer& layer, int32_t n, Communicator& communicator, Stream& stream);

  ModelConfig config_;
  Shard shard_;
  QkvShape qkv_shape_;
  int32_t max_tokens_;

  cpu::Matrix embedding_;  // [vocabulary rows of this rank, hidden]
  std::vector<Layer> layers_;
  std::vector<float> final_norm_;  // [hidden]
  cpu::Matrix head_;               // empty when tied: the embedding serves

  // Activations, [max_tokens, ...]
  std::vector<float> residual_;    // hidden: the stream that layers add to
  std::vector<float> normed_;      // hidden
  std::vector<float> delta_;       // hidden: what a sub-layer adds
  std::vector<float> qkv_;         // (n_heads + 2 n_kv_heads) * head_dim of this rank
  std::vector<float> attended_;    // n_heads * head_dim of this rank
  std::vector<float> gate_up_;     // 2 * MLP columns of this rank
  std::vector<float> activation_;  // MLP columns of this rank
  std::vector<int32_t> local_rows_;
};

}  // namespace troupe
