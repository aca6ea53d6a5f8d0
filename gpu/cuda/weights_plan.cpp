#include "gpu/cuda/weights_plan.h"

#include <cmath>
#include <utility>

namespace troupe::cuda {
namespace {

constexpr size_t kAlignment = 256;

size_t aligned(size_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }

Range times(Range heads, int64_t head_dim) {
  return {heads.begin * head_dim, heads.end * head_dim};
}

/// Keeps the variance of what it multiplies.
float deviation_for(int64_t cols) { return 1.0F / std::sqrt(static_cast<float>(cols)); }

}  // namespace

WeightsPlan::WeightsPlan(const ModelConfig& c, const Shard& s, WeightFormat format, bool o_bias) {
  const int64_t hidden = c.hidden;
  const Range all = {0, hidden};
  const Range q = times(s.query_heads, c.head_dim);
  const Range kv = times(s.kv_heads, c.head_dim);
  const Range head_dim = {0, c.head_dim};
  const float from_hidden = deviation_for(hidden);
  const auto vector = [&](const std::string& name, Range range) {
    return SourceSlice{name, {0, 1}, range};
  };

  embedding = add_matrix({{"embed_tokens.weight", s.vocab, all}}, WeightFormat::kBf16,
                         c.tied_head ? from_hidden : 1.0F);
  for (int32_t i = 0; i < c.n_layers; ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    const std::string attention = layer + "self_attn.";
    LayerPlan plan;
    plan.input_norm = add_vector({vector(layer + "input_layernorm.weight", all)}, 1.0F);
    plan.qkv = add_matrix({{attention + "q_proj.weight", q, all},
                           {attention + "k_proj.weight", kv, all},
                           {attention + "v_proj.weight", kv, all}},
                          format, from_hidden);
    if (c.qkv_bias) {
      plan.qkv_bias =
          add_vector({vector(attention + "q_proj.bias", q), vector(attention + "k_proj.bias", kv),
                      vector(attention + "v_proj.bias", kv)},
                     0.0F);
    }
    if (c.qk_norm) {
      plan.q_norm = add_vector({vector(attention + "q_norm.weight", head_dim)}, 1.0F);
      plan.k_norm = add_vector({vector(attention + "k_norm.weight", head_dim)}, 1.0F);
    }
    plan.o = add_matrix({{attention + "o_proj.weight", all, q}}, format,
                        deviation_for(int64_t{c.n_heads} * c.head_dim));
    if (o_bias) plan.o_bias = add_vector({vector(attention + "o_proj.bias", all)}, 0.0F);
    plan.post_norm = add_vector({vector(layer + "post_attention_layernorm.weight", all)}, 1.0F);
    plan.gate_up = add_matrix(
        {{layer + "mlp.gate_proj.weight", s.ffn, all}, {layer + "mlp.up_proj.weight", s.ffn, all}},
        format, from_hidden);
    plan.down =
        add_matrix({{layer + "mlp.down_proj.weight", all, s.ffn}}, format, deviation_for(c.ffn));
    layers.push_back(plan);
  }
  final_norm = add_vector({vector("norm.weight", all)}, 1.0F);
  head = c.tied_head
             ? embedding
             : add_matrix({{"lm_head.weight", s.vocab, all}}, WeightFormat::kBf16, from_hidden);
  place();
}

int32_t WeightsPlan::add_vector(std::vector<SourceSlice> slices, float value) {
  Placement p;
  p.rows = 1;
  for (const SourceSlice& slice : slices) p.cols += slice.cols.size();
  p.slices = std::move(slices);
  p.random = value;
  vectors.push_back(std::move(p));
  return static_cast<int32_t>(vectors.size()) - 1;
}

int32_t WeightsPlan::add_matrix(std::vector<SourceSlice> slices, WeightFormat format,
                                float deviation) {
  Placement p;
  p.cols = slices.front().cols.size();
  for (SourceSlice& slice : slices) {
    slice.to_row = p.rows;
    p.rows += slice.rows.size();
  }
  p.slices = std::move(slices);
  p.format = format;
  p.random = deviation;
  matrices.push_back(std::move(p));
  return static_cast<int32_t>(matrices.size()) - 1;
}

void WeightsPlan::place() {
  for (Placement& p : vectors) {
    p.offset = bytes;
    bytes += aligned(p.bytes());
  }
  vector_bytes = bytes;
  for (Placement& p : matrices) {
    p.offset = bytes;
    bytes += aligned(p.bytes());
    if (p.format == WeightFormat::kBf16) continue;
    p.scale_offset = bytes;
    bytes += aligned(static_cast<size_t>(p.rows) * sizeof(float));
  }
}

}  // namespace troupe::cuda
