#include "gpu/cuda/llama.h"

#include "gpu/base/check.h"
#include "gpu/communicator.h"
#include "gpu/cuda/graph_timer.h"
#include "gpu/cuda/quantize.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace troupe::cuda {
namespace {

size_t times(int64_t a, int64_t b) { return static_cast<size_t>(a * b); }

VocabularySplit split_vocabulary(const ModelConfig& config, int32_t n_ranks) {
  TROUPE_CHECK(n_ranks <= VocabularySplit::kMaxRanks) << n_ranks;
  VocabularySplit split;
  split.n_ranks = n_ranks;
  for (int32_t r = 0; r < n_ranks; ++r) {
    const Range slice = make_shard(config, 32, r, n_ranks).vocab;
    split.begin[r] = static_cast<int32_t>(slice.begin);
    split.widest = std::max(split.widest, static_cast<int32_t>(slice.size()));
  }
  split.begin[n_ranks] = config.vocab;
  return split;
}

int64_t widest_slice(const ModelConfig& config, int32_t n_ranks) {
  return split_vocabulary(config, n_ranks).widest;
}

constexpr int32_t kTunedLayers = 4;

size_t kv_value_bytes(KvFormat format) { return format == KvFormat::kFp8 ? 1 : 2; }

}  // namespace

// ---- KV pool ------------------------------------------------------------------------------------

size_t KvPool::bytes_per_slot(int32_t n_layers, const AttentionShape& shape, KvFormat format) {
  return times(2 * n_layers, int64_t{shape.n_kv_heads} * shape.head_dim) * kv_value_bytes(format);
}

KvPool::KvPool(int32_t n_layers, int32_t n_slots, const AttentionShape& shape, KvFormat format)
    : n_slots_(n_slots),
      layer_bytes_((static_cast<size_t>(n_slots) + 1) * bytes_per_slot(1, shape, format)),
      format_(format),
      memory_(static_cast<size_t>(n_layers) * layer_bytes_) {}

// ---- attention ----------------------------------------------------------------------------------

void Llama::attend(const LayerWeights& w, const StepInput& input, const KvLayer& kv,
                   cudaStream_t stream) {
  const int32_t n = input.n_tokens;
  const Product qkv = linear_.run(qkv_.data(), w.qkv, activation(hidden_in_), n, stream);
  rope_and_store_kv(q_.data(), kv, qkv, w.qkv_bias, shape_, rope_, w.q_norm, w.k_norm,
                    config_.rms_eps, input.positions, input.slots, n, stream);
  const float scale = 1.0F / std::sqrt(static_cast<float>(shape_.head_dim));
  if (input.decode.n_rows > 0)
    decode_.run(attended_.data(), q_.data(), kv, input.decode, scale, config_.sliding_window,
                stream);
  if (!input.chunks.empty())
    prefill_.run(attended_.data(), q_.data(), kv, scale, config_.sliding_window, stream);
}

Product Llama::all_reduce(const Product& product, int32_t n, cudaStream_t stream) {
  if (communicator_.size() == 1 || tuning_) return product;
  if (product.channel_scale != nullptr)
    apply_scales(delta_.data(), product, n, config_.hidden, stream);
  communicator_.device_all_reduce_sum(delta_.data(), int64_t{n} * config_.hidden, stream);
  return {delta_.data(), nullptr, nullptr};
}

// ---- MLP ----------------------------------------------------------------------------------------

/// hidden_in_ -> silu(gate) * up -> inner_in_.
void Llama::gate_and_up(const LayerWeights& w, int32_t n, cudaStream_t stream) {
  const Activation in = activation(hidden_in_);
  if (!gated_.suits(w.gate_up, n)) {
    const Product product = linear_.run(gate_up_.data(), w.gate_up, in, n, stream);
    silu_mul(inner_in_, product, n, ffn_, stream);
    return;
  }
  __nv_bfloat16* const out = fp8_ ? gate_up_.data() : inner_in_.data;
  gated_.run(out, w.gate_up, in, n, stream);
  if (fp8_) quantize_rows(inner_in_.codes, inner_in_.token_scale, out, n, ffn_, stream);
}

/// attended -> o -> residual -> MLP -> residual, and the norm that comes next into hidden_in_.
void Llama::project_and_mlp(const LayerWeights& w, const __nv_bfloat16* attended,
                            __nv_bfloat16* residual, const __nv_bfloat16* next_norm, bool last,
                            int32_t n, cudaStream_t stream) {
  const int32_t q_width = shape_.n_heads * shape_.head_dim;
  Activation heads = {attended, nullptr};
  if (fp8_) {
    quantize_rows(inner_in_.codes, inner_in_.token_scale, attended, n, q_width, stream);
    heads = activation(inner_in_);
  }
  const Product o = all_reduce(linear_.run(delta_.data(), w.o, heads, n, stream), n, stream);
  add_rms_norm(hidden_in_, residual, o, w.o_bias, w.post_norm, n, config_.hidden, config_.rms_eps,
               stream);
  gate_and_up(w, n, stream);
  const Product down =
      all_reduce(linear_.run(delta_.data(), w.down, activation(inner_in_), n, stream), n, stream);
  // The head's weights are bf16 whatever the layers' are.
  ActivationOut out = hidden_in_;
  if (last && fp8_)
    out = {reinterpret_cast<__nv_bfloat16*>(activations_[0].data()), nullptr, nullptr};
  add_rms_norm(out, residual, down, nullptr, next_norm, n, config_.hidden, config_.rms_eps, stream);
}

// ---- model --------------------------------------------------------------------------------------

void Llama::forward(const StepInput& input, const KvPool& kv, cudaStream_t stream) {
  TROUPE_CHECK(input.n_tokens <= limits_.max_tokens && input.n_sampled <= limits_.max_sampled)
      << input.n_tokens << " tokens, " << input.n_sampled << " sampled";
  if (input.n_tokens == 0) return;
  const int32_t hidden = config_.hidden;
  if (input.decode.n_rows > 0) decode_.plan(input.decode, stream, config_.sliding_window);
  if (!input.chunks.empty()) prefill_.plan(input.chunks, input.decode.slots, stream);
  embedding(residual_.data(), weights_->embedding(), input.tokens,
            static_cast<int32_t>(shard_.vocab.begin), static_cast<int32_t>(shard_.vocab.size()),
            input.n_tokens, hidden, stream);
  // One rank has a token's row, the others add zeros.
  if (communicator_.size() > 1)
    communicator_.device_all_reduce_sum(residual_.data(), int64_t{input.n_tokens} * hidden, stream);
  add_rms_norm(hidden_in_, residual_.data(), {}, nullptr, weights_->layer(0).input_norm,
               input.n_tokens, hidden, config_.rms_eps, stream);
  const __nv_bfloat16* attended = attended_.data();
  __nv_bfloat16* residual = residual_.data();
  int32_t n = input.n_tokens;
  for (int32_t i = 0; i < config_.n_layers; ++i) {
    const LayerWeights& w = weights_->layer(i);
    KvLayer pool = kv.layer(i);
    pool.k_scale = w.k_scale;  // say nothing to a bf16 pool
    pool.v_scale = w.v_scale;
    attend(w, input, pool, stream);
    const bool last = i + 1 == config_.n_layers;
    if (last && input.sampled != nullptr) {
      // K and V of all tokens are stored; only tokens that sample go on from here.
      n = input.n_sampled;
      if (n == 0) return;
      gather_rows(q_.data(), attended_.data(), input.sampled, n, shape_.n_heads * shape_.head_dim,
                  stream);
      gather_rows(sampled_residual_.data(), residual_.data(), input.sampled, n, hidden, stream);
      attended = q_.data();
      residual = sampled_residual_.data();
    }
    const __nv_bfloat16* next = last ? weights_->final_norm() : weights_->layer(i + 1).input_norm;
    project_and_mlp(w, attended, residual, next, last, n, stream);
  }
  linear_.run_f32(logits_.data(), weights_->head(), {activations_[0].data(), nullptr}, n, stream);
  if (split_.n_ranks == 1) return;
  communicator_.device_all_gather(logits_.data(), gathered_.data(),
                                  int64_t{n} * split_.widest * static_cast<int64_t>(sizeof(float)),
                                  stream);
  join_vocabulary(joined_.data(), gathered_.data(), split_, n, stream);
}

void Llama::tune(int32_t n_tokens, int32_t n_sampled, cudaStream_t stream) {
  const LayerWeights& w = weights_->layer(0);
  const Weight* const layer[] = {&w.qkv, &w.o, &w.gate_up, &w.down};
  linear_.tune_alone(weights_->head(), n_sampled, true, stream);
  if (n_tokens > limits_.max_rows) {
    for (const Weight* weight : layer) {
      if (weight != &w.gate_up || !gated_.suits(w.gate_up, n_tokens))
        linear_.tune_alone(*weight, n_tokens, false, stream);
    }
    return;
  }
  // Decode kernels run into each other: what is best for one depends on its neighbours, so each is
  // chosen in the midst of them. Contexts of one position keep attention out of it.
  const int32_t n_layers = std::min(config_.n_layers, kTunedLayers);
  const KvPool kv(n_layers, 1, shape_, kv_format_);
  const auto rows = static_cast<size_t>(n_tokens);
  const DeviceBuffer<int32_t> zeros(rows);
  const DeviceBuffer<int32_t> ones(rows);
  TROUPE_CUDA(cudaMemset(zeros.data(), 0, zeros.bytes()));
  const std::vector<int32_t> host(rows, 1);
  TROUPE_CUDA(cudaMemcpy(ones.data(), host.data(), ones.bytes(), cudaMemcpyHostToDevice));
  fill_normal(residual_.data(), int64_t{n_tokens} * config_.hidden, 1.0F, 1, stream);
  StepInput input = {n_tokens, zeros.data(), zeros.data(), zeros.data(),
                     {},       {},           n_sampled,    nullptr};
  input.decode = {n_tokens, zeros.data(), ones.data(), {zeros.data(), 1}};
  decode_.plan(input.decode, stream, config_.sliding_window);
  TROUPE_CUDA(cudaStreamSynchronize(stream));
  tuning_ = true;
  const auto chain = [&](int32_t /*i*/, cudaStream_t s) {
    add_rms_norm(hidden_in_, residual_.data(), {}, nullptr, w.input_norm, n_tokens, config_.hidden,
                 config_.rms_eps, s);
    for (int32_t i = 0; i < n_layers; ++i) {
      const LayerWeights& l = weights_->layer(i);
      attend(l, input, kv.layer(i), s);
      project_and_mlp(l, attended_.data(), residual_.data(), l.input_norm, false, n_tokens, s);
    }
  };
  for (const Weight* weight : layer) {
    if (weight == &w.gate_up && gated_.suits(w.gate_up, n_tokens)) continue;
    linear_.tune(*weight, n_tokens, false,
                 [&](int32_t replays) { return time_in_graph(chain, 1, replays); });
  }
  tuning_ = false;
}

AttentionShape Llama::attention_shape(const ModelConfig& config, const Shard& shard) {
  return {static_cast<int32_t>(shard.query_heads.size()),
          static_cast<int32_t>(shard.kv_heads.size()), config.head_dim};
}

size_t Llama::activation_bytes(const ModelConfig& c, const Shard& s, const Limits& limits,
                               int32_t n_ranks) {
  const int64_t q = s.query_heads.size() * c.head_dim;
  const int64_t kv = s.kv_heads.size() * c.head_dim;
  const int64_t inner = std::max(q, s.ffn.size());
  const int64_t per_token =
      2 * int64_t{c.hidden} + (q + 2 * kv) + 2 * q + 2 * s.ffn.size() + c.hidden + inner + 4;
  const int64_t gathered =
      n_ranks == 1 ? 0 : n_ranks * widest_slice(c, n_ranks) * 4 + int64_t{c.vocab} * 4;
  return times(limits.max_tokens, per_token * 2) +
         times(limits.max_sampled, c.hidden * 2 + s.vocab.size() * 4 + gathered);
}

size_t Llama::workspace_bytes() const {
  size_t bytes = activations_[0].bytes() + activations_[1].bytes();
  for (const auto* b : {&residual_, &sampled_residual_, &delta_, &qkv_, &q_, &attended_, &gate_up_})
    bytes += b->bytes();
  return bytes + logits_.bytes() + gathered_.bytes() + joined_.bytes() + token_scales_.bytes() +
         decode_.workspace_bytes() + prefill_.workspace_bytes() + kLinearWorkspace;
}

Llama::Llama(const ModelConfig& config, const Shard& shard, std::unique_ptr<Weights> weights,
             KvFormat kv, const Limits& limits, Communicator& communicator)
    : config_(config),
      shard_(shard),
      shape_(attention_shape(config, shard)),
      kv_format_(kv),
      limits_(limits),
      communicator_(communicator),
      split_(split_vocabulary(config, communicator.size())),
      ffn_(static_cast<int32_t>(shard.ffn.size())),
      fp8_(weights->layer(0).qkv.format == WeightFormat::kFp8),
      weights_(std::move(weights)),
      inverse_frequency_(config.rope.inverse_frequency.size()),
      rope_{inverse_frequency_.data(), config.rope.rotary_dim, config.rope.interleaved,
            config.rope.magnitude},
      linear_(kLinearWorkspace),
      decode_(shape_, kv, {limits.max_rows, limits.batch_invariant}),
      prefill_(shape_, kv, limits.max_tokens, limits.max_context) {
  const auto tokens = static_cast<size_t>(limits.max_tokens);
  const auto hidden = static_cast<size_t>(config.hidden);
  const size_t q = times(shape_.n_heads, shape_.head_dim);
  const size_t kv_width = times(shape_.n_kv_heads, shape_.head_dim);
  const auto ffn = static_cast<size_t>(ffn_);
  TROUPE_CUDA(cudaMemcpy(inverse_frequency_.data(), config.rope.inverse_frequency.data(),
                         inverse_frequency_.bytes(), cudaMemcpyHostToDevice));
  residual_ = DeviceBuffer<__nv_bfloat16>(tokens * hidden);
  sampled_residual_ = DeviceBuffer<__nv_bfloat16>(static_cast<size_t>(limits.max_sampled) * hidden);
  delta_ = DeviceBuffer<__nv_bfloat16>(tokens * hidden);
  qkv_ = DeviceBuffer<__nv_bfloat16>(tokens * (q + 2 * kv_width));
  q_ = DeviceBuffer<__nv_bfloat16>(tokens * q);
  attended_ = DeviceBuffer<__nv_bfloat16>(tokens * q);
  gate_up_ = DeviceBuffer<__nv_bfloat16>(tokens * 2 * ffn);
  // Ranks exchange slices of equal length: room for the widest.
  logits_ = DeviceBuffer<float>(times(
      limits.max_sampled, split_.n_ranks == 1 ? weights_->head().rows : int64_t{split_.widest}));
  if (split_.n_ranks > 1) {
    gathered_ =
        DeviceBuffer<float>(times(limits.max_sampled, int64_t{split_.n_ranks} * split_.widest));
    joined_ = DeviceBuffer<float>(times(limits.max_sampled, config.vocab));
  }
  activations_[0] = DeviceBuffer<std::byte>(tokens * hidden * 2);
  activations_[1] = DeviceBuffer<std::byte>(tokens * std::max(q, ffn) * 2);
  token_scales_ = DeviceBuffer<float>(2 * tokens);
  // Padding rows go through the layers too: they must start as numbers.
  TROUPE_CUDA(cudaMemset(attended_.data(), 0, attended_.bytes()));
  ActivationOut* const ins[] = {&hidden_in_, &inner_in_};
  for (size_t i = 0; i < 2; ++i) {
    if (fp8_) {
      ins[i]->codes = reinterpret_cast<uint8_t*>(activations_[i].data());
      ins[i]->token_scale = token_scales_.data() + i * tokens;
    } else {
      ins[i]->data = reinterpret_cast<__nv_bfloat16*>(activations_[i].data());
    }
  }
}

}  // namespace troupe::cuda
