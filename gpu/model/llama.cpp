#include "gpu/model/llama.h"

#include "gpu/base/check.h"
#include "gpu/base/half.h"
#include "gpu/communicator.h"
#include "gpu/ops/rms_norm.h"
#include "gpu/ops/silu_mul.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

namespace troupe {

namespace ops = cpu;  // the one place that names the backend

namespace {

std::string layer_name(int32_t layer, std::string_view rest) {
  return "layers." + std::to_string(layer) + "." + std::string(rest);
}

size_t product(int64_t a, int64_t b) { return static_cast<size_t>(a * b); }

/// Heads -> rows of a projection.
Range times(Range heads, int64_t head_dim) {
  return {heads.begin * head_dim, heads.end * head_dim};
}

const float* pointer_or_null(const std::vector<float>& v) { return v.empty() ? nullptr : v.data(); }

/// Moves rows `kept` (ascending) of a [*, width] array to its front.
void keep_rows(std::vector<float>& data, std::span<const int32_t> kept, int64_t width) {
  for (size_t i = 0; i < kept.size(); ++i) {
    if (static_cast<size_t>(kept[i]) == i) continue;
    const float* from = data.data() + product(kept[i], width);
    std::copy(from, from + width, data.data() + product(static_cast<int64_t>(i), width));
  }
}

}  // namespace

// ---- attention ----------------------------------------------------------------------------------

void Llama::attend(const Layer& layer, const LlamaInput& input, const KvLayer& kv, Stream& stream) {
  const auto n = static_cast<int32_t>(input.tokens.size());
  const RopeTable rope = {config_.rope.interleaved, config_.rope.rotary_dim,
                          config_.rope.inverse_frequency, config_.rope.magnitude};
  ops::linear(qkv_.data(), layer.qkv, normed_.data(), pointer_or_null(layer.qkv_bias), n, stream);
  ops::rope_and_store_kv(qkv_.data(), kv, qkv_shape_, rope, pointer_or_null(layer.q_norm),
                         pointer_or_null(layer.k_norm), config_.rms_eps, input.positions,
                         input.slots, stream);
  const float scale = 1.0F / std::sqrt(static_cast<float>(config_.head_dim));
  ops::attention(attended_.data(), qkv_.data(), kv, qkv_shape_, shard_.kv_head_of, input.rows,
                 scale, config_.sliding_window, stream);
}

// ---- MLP ----------------------------------------------------------------------------------------

void Llama::project_and_mlp(const Layer& layer, int32_t n, Communicator& communicator,
                            Stream& stream) {
  const std::span<float> delta = std::span(delta_).first(product(n, config_.hidden));
  ops::linear(delta.data(), layer.o, attended_.data(), pointer_or_null(layer.o_bias), n, stream);
  communicator.all_reduce_sum(delta, stream);
  ops::add_rms_norm(normed_.data(), residual_.data(), delta.data(), layer.post_norm.data(), n,
                    config_.hidden, config_.rms_eps, stream);
  ops::linear(gate_up_.data(), layer.gate_up, normed_.data(), nullptr, n, stream);
  ops::silu_mul(activation_.data(), gate_up_.data(), n, static_cast<int32_t>(shard_.ffn.size()),
                stream);
  ops::linear(delta.data(), layer.down, activation_.data(), nullptr, n, stream);
  communicator.all_reduce_sum(delta, stream);
}

// ---- model --------------------------------------------------------------------------------------

void Llama::embed(const LlamaInput& input, Communicator& communicator, Stream& stream) {
  // Every rank looks up its own vocabulary; the others contribute zeros.
  local_rows_.clear();
  for (const int32_t token : input.tokens) {
    const bool ours = token >= shard_.vocab.begin && token < shard_.vocab.end;
    local_rows_.push_back(ours ? token - static_cast<int32_t>(shard_.vocab.begin) : -1);
  }
  ops::embedding(residual_.data(), embedding_, local_rows_, stream);
  communicator.all_reduce_sum(
      std::span(residual_).first(input.tokens.size() * static_cast<size_t>(config_.hidden)),
      stream);
}

void Llama::forward(const LlamaInput& input, const KvPool& kv, Communicator& communicator,
                    Stream& stream, float* logits) {
  auto n = static_cast<int32_t>(input.tokens.size());
  TROUPE_CHECK(n <= max_tokens_) << n << " tokens, room for " << max_tokens_;
  if (n == 0) return;
  embed(input, communicator, stream);
  ops::rms_norm(normed_.data(), residual_.data(), layers_.front().input_norm.data(), n,
                config_.hidden, config_.rms_eps, stream);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    attend(layer, input, kv.layer(static_cast<int32_t>(i)), stream);
    const bool last = i + 1 == layers_.size();
    if (last) {
      // K and V of all tokens are stored; only tokens that sample go on from here.
      n = static_cast<int32_t>(input.sampled.size());
      if (n == 0) return;
      keep_rows(attended_, input.sampled, shard_.query_heads.size() * config_.head_dim);
      keep_rows(residual_, input.sampled, config_.hidden);
    }
    project_and_mlp(layer, n, communicator, stream);
    const std::vector<float>& next_norm = last ? final_norm_ : layers_[i + 1].input_norm;
    ops::add_rms_norm(normed_.data(), residual_.data(), delta_.data(), next_norm.data(), n,
                      config_.hidden, config_.rms_eps, stream);
  }
  ops::linear(logits, config_.tied_head ? embedding_ : head_, normed_.data(), nullptr, n, stream);
}

int64_t Llama::weight_bytes() const {
  const auto floats = [](const std::vector<float>& v) {
    return static_cast<int64_t>(v.size() * sizeof(float));
  };
  int64_t bytes = embedding_.bytes() + floats(final_norm_);
  if (!config_.tied_head) bytes += head_.bytes();
  for (const Layer& l : layers_) {
    bytes += l.qkv.bytes() + l.o.bytes() + l.gate_up.bytes() + l.down.bytes();
    for (const auto* v :
         {&l.input_norm, &l.qkv_bias, &l.q_norm, &l.k_norm, &l.o_bias, &l.post_norm})
      bytes += floats(*v);
  }
  return bytes;
}

int64_t Llama::workspace_bytes(const ModelConfig& c, const Shard& s, int32_t max_tokens) {
  const int64_t q = s.query_heads.size() * c.head_dim;
  const int64_t qkv = q + 2 * s.kv_heads.size() * c.head_dim;
  const int64_t per_token = 3 * int64_t{c.hidden} + qkv + q + 3 * s.ffn.size();
  return max_tokens * (per_token + 1) * static_cast<int64_t>(sizeof(float));
}

Llama::Llama(const ModelConfig& config, Shard shard, int32_t max_tokens)
    : config_(config),
      shard_(std::move(shard)),
      qkv_shape_{static_cast<int32_t>(shard_.query_heads.size()),
                 static_cast<int32_t>(shard_.kv_heads.size()), config.head_dim},
      max_tokens_(max_tokens),
      layers_(static_cast<size_t>(config.n_layers)) {
  const int64_t q = shard_.query_heads.size() * config.head_dim;
  residual_.resize(product(max_tokens, config.hidden));
  normed_.resize(residual_.size());
  delta_.resize(residual_.size());
  qkv_.resize(product(max_tokens, q + 2 * shard_.kv_heads.size() * config.head_dim));
  attended_.resize(product(max_tokens, q));
  gate_up_.resize(product(max_tokens, 2 * shard_.ffn.size()));
  activation_.resize(product(max_tokens, shard_.ffn.size()));
  local_rows_.reserve(static_cast<size_t>(max_tokens));
}

// ---- checkpoint -> weights ----------------------------------------------------------------------

/// Reads one rank's slices by canonical name. Keeps the first error; later calls do nothing.
class Llama::Loader {
 public:
  Loader(const Checkpoint& checkpoint, WeightMode mode, Stream& stream)
      : checkpoint_(checkpoint), mode_(mode), stream_(stream) {}

  [[nodiscard]] const std::optional<Error>& error() const { return error_; }

  struct Rows {
    std::string name;
    Range rows;
  };

  /// Whole-width rows of several tensors, stacked.
  ops::Matrix rows(const std::vector<Rows>& parts) {
    std::vector<MatrixSlice> slices;
    for (const Rows& part : parts) {
      const TensorView* tensor = require(part.name);
      if (tensor == nullptr) return {};
      slices.push_back({tensor, part.rows.begin, part.rows.end, 0, tensor->cols()});
    }
    return pack(slices);
  }

  /// All rows of one tensor, some columns.
  ops::Matrix columns(const std::string& name, Range columns) {
    const TensorView* tensor = require(name);
    if (tensor == nullptr) return {};
    return pack({{tensor, 0, tensor->rows(), columns.begin, columns.end}});
  }

  /// Elements of a vector, appended to `out` as fp32.
  void append(std::vector<float>& out, const std::string& name, Range range) {
    const TensorView* tensor = require(name);
    if (tensor == nullptr) return;
    if (tensor->cols() < range.end || tensor->rows() != 1) {
      error_ = fail(ErrorCode::kBadModel, checkpoint_.path() + ": " + tensor->name +
                                              " is not a vector of " + std::to_string(range.end) +
                                              " elements; the file does not fit its config");
      return;
    }
    for (int64_t i = range.begin; i < range.end; ++i) {
      const std::byte* at = tensor->data + i * block_bytes(tensor->dtype);
      float value = 0.0F;
      uint16_t half = 0;
      switch (tensor->dtype) {
        case DType::kF32: std::memcpy(&value, at, sizeof(value)); break;
        case DType::kF16:
          std::memcpy(&half, at, sizeof(half));
          value = float_from_f16(half);
          break;
        case DType::kBF16:
          std::memcpy(&half, at, sizeof(half));
          value = float_from_bf16(half);
          break;
        default:
          error_ = fail(ErrorCode::kBadModel, checkpoint_.path() + ": " + tensor->name + " is " +
                                                  std::string(to_string(tensor->dtype)) +
                                                  "; vectors must be F32, F16 or BF16");
          return;
      }
      out.push_back(value);
    }
  }

  std::vector<float> vector(const std::string& name, int64_t n) {
    std::vector<float> out;
    append(out, name, {0, n});
    return out;
  }

  [[nodiscard]] bool has(const std::string& name) const {
    return checkpoint_.find(name) != nullptr;
  }

 private:
  const TensorView* require(const std::string& name) {
    if (error_) return nullptr;
    const TensorView* tensor = checkpoint_.find(name);
    if (tensor == nullptr)
      error_ = fail(ErrorCode::kBadModel, checkpoint_.path() + ": tensor " + name +
                                              " is missing; the file is incomplete");
    if (tensor != nullptr && tensor->dtype == DType::kF8E4M3) {
      error_ = fail(ErrorCode::kBadModel,
                    checkpoint_.path() + ": tensor " + name +
                        " is F8_E4M3: such models run on a GPU only; use --device cuda, the "
                        "unquantised model or a GGUF file");
      return nullptr;
    }
    return tensor;
  }

  ops::Matrix pack(const std::vector<MatrixSlice>& slices) {
    Result<ops::Matrix> packed = ops::Matrix::pack(slices, mode_, stream_);
    if (packed) return std::move(packed).value();
    error_ = packed.error();
    return {};
  }

  const Checkpoint& checkpoint_;
  WeightMode mode_;
  Stream& stream_;
  std::optional<Error> error_;
};

Result<std::unique_ptr<Llama>> Llama::load(const Checkpoint& checkpoint, Shard shard,
                                           bool first_rank, WeightMode mode, int32_t max_tokens,
                                           Stream& stream) {
  const ModelConfig& c = checkpoint.config();
  // Private constructor: make_unique cannot reach it.
  std::unique_ptr<Llama> model(new Llama(c, std::move(shard), max_tokens));
  const Shard& s = model->shard_;
  const Range q = times(s.query_heads, c.head_dim);
  const Range kv = times(s.kv_heads, c.head_dim);
  Loader load(checkpoint, mode, stream);

  model->embedding_ = load.rows({{"embed_tokens.weight", s.vocab}});
  for (int32_t i = 0; i < c.n_layers && !load.error(); ++i) {
    Layer& layer = model->layers_[static_cast<size_t>(i)];
    const auto name = [i](std::string_view rest) { return layer_name(i, rest); };
    layer.input_norm = load.vector(name("input_layernorm.weight"), c.hidden);
    layer.qkv = load.rows({{name("self_attn.q_proj.weight"), q},
                           {name("self_attn.k_proj.weight"), kv},
                           {name("self_attn.v_proj.weight"), kv}});
    if (c.qkv_bias) {
      load.append(layer.qkv_bias, name("self_attn.q_proj.bias"), q);
      load.append(layer.qkv_bias, name("self_attn.k_proj.bias"), kv);
      load.append(layer.qkv_bias, name("self_attn.v_proj.bias"), kv);
    }
    if (c.qk_norm) {
      layer.q_norm = load.vector(name("self_attn.q_norm.weight"), c.head_dim);
      layer.k_norm = load.vector(name("self_attn.k_norm.weight"), c.head_dim);
    }
    layer.o = load.columns(name("self_attn.o_proj.weight"), q);
    // Every rank's part of o is summed up, so only one may add the bias.
    if (first_rank && load.has(name("self_attn.o_proj.bias")))
      layer.o_bias = load.vector(name("self_attn.o_proj.bias"), c.hidden);
    layer.post_norm = load.vector(name("post_attention_layernorm.weight"), c.hidden);
    layer.gate_up =
        load.rows({{name("mlp.gate_proj.weight"), s.ffn}, {name("mlp.up_proj.weight"), s.ffn}});
    layer.down = load.columns(name("mlp.down_proj.weight"), s.ffn);
  }
  model->final_norm_ = load.vector("norm.weight", c.hidden);
  if (!c.tied_head) model->head_ = load.rows({{"lm_head.weight", s.vocab}});
  if (load.error()) return *load.error();
  return model;
}

int64_t Llama::weight_bytes(const Checkpoint& checkpoint, const Shard& shard, WeightMode mode) {
  const ModelConfig& c = checkpoint.config();
  const int64_t q = shard.query_heads.size() * c.head_dim;
  const int64_t kv = shard.kv_heads.size() * c.head_dim;
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t cols) -> int64_t {
    const TensorView* tensor = checkpoint.find(name);
    if (tensor == nullptr) return 0;
    if (mode == WeightMode::kExact) return rows * cols * static_cast<int64_t>(sizeof(float));
    return rows * cols / block_elements(tensor->dtype) * block_bytes(tensor->dtype);
  };
  int64_t bytes = matrix("embed_tokens.weight", shard.vocab.size(), c.hidden);
  if (!c.tied_head) bytes += matrix("lm_head.weight", shard.vocab.size(), c.hidden);
  for (int32_t i = 0; i < c.n_layers; ++i) {
    bytes += matrix(layer_name(i, "self_attn.q_proj.weight"), q, c.hidden) +
             matrix(layer_name(i, "self_attn.k_proj.weight"), kv, c.hidden) +
             matrix(layer_name(i, "self_attn.v_proj.weight"), kv, c.hidden) +
             matrix(layer_name(i, "self_attn.o_proj.weight"), c.hidden, q) +
             matrix(layer_name(i, "mlp.gate_proj.weight"), shard.ffn.size(), c.hidden) +
             matrix(layer_name(i, "mlp.up_proj.weight"), shard.ffn.size(), c.hidden) +
             matrix(layer_name(i, "mlp.down_proj.weight"), c.hidden, shard.ffn.size()) +
             2 * int64_t{c.hidden} * static_cast<int64_t>(sizeof(float));
  }
  return bytes;
}

}  // namespace troupe
