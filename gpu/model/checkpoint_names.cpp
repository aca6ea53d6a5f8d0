#include "gpu/model/checkpoint_names.h"

namespace troupe {
namespace {

struct NamePair {
  std::string_view stored;
  std::string_view canonical;
};
constexpr NamePair kModelNames[] = {
    {"token_embd.weight", "embed_tokens.weight"},
    {"output_norm.weight", "norm.weight"},
    {"output.weight", "lm_head.weight"},
};
constexpr NamePair kLayerNames[] = {
    {"attn_norm.weight", "input_layernorm.weight"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"attn_q.bias", "self_attn.q_proj.bias"},
    {"attn_k.bias", "self_attn.k_proj.bias"},
    {"attn_v.bias", "self_attn.v_proj.bias"},
    {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    {"attn_k_norm.weight", "self_attn.k_norm.weight"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
};

// Scales of an fp8 KV cache: of ModelOpt, and of compressed-tensors before it named them itself.
constexpr NamePair kKvScaleNames[] = {
    {".k_proj.k_scale", ".k_scale"},
    {".v_proj.v_scale", ".v_scale"},
    {".k_proj.output_scale", ".k_scale"},
    {".v_proj.output_scale", ".v_scale"},
};

}  // namespace

std::vector<ExpectedTensor> expected_tensors(const ModelConfig& c) {
  const int64_t hidden = c.hidden;
  const int64_t q = int64_t{c.n_heads} * c.head_dim;
  const int64_t kv = int64_t{c.n_kv_heads} * c.head_dim;
  std::vector<ExpectedTensor> out = {{"embed_tokens.weight", {c.vocab, hidden}},
                                     {"norm.weight", {hidden}}};
  if (!c.tied_head) out.push_back({"lm_head.weight", {c.vocab, hidden}});
  for (int32_t i = 0; i < c.n_layers; ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    out.push_back({layer + "input_layernorm.weight", {hidden}});
    out.push_back({layer + "self_attn.q_proj.weight", {q, hidden}});
    out.push_back({layer + "self_attn.k_proj.weight", {kv, hidden}});
    out.push_back({layer + "self_attn.v_proj.weight", {kv, hidden}});
    out.push_back({layer + "self_attn.o_proj.weight", {hidden, q}});
    if (c.qkv_bias) {
      out.push_back({layer + "self_attn.q_proj.bias", {q}});
      out.push_back({layer + "self_attn.k_proj.bias", {kv}});
      out.push_back({layer + "self_attn.v_proj.bias", {kv}});
    }
    if (c.qk_norm) {
      out.push_back({layer + "self_attn.q_norm.weight", {c.head_dim}});
      out.push_back({layer + "self_attn.k_norm.weight", {c.head_dim}});
    }
    out.push_back({layer + "post_attention_layernorm.weight", {hidden}});
    out.push_back({layer + "mlp.gate_proj.weight", {c.ffn, hidden}});
    out.push_back({layer + "mlp.up_proj.weight", {c.ffn, hidden}});
    out.push_back({layer + "mlp.down_proj.weight", {hidden, c.ffn}});
  }
  return out;
}

std::optional<std::string> canonical_from_gguf(std::string_view name) {
  for (const NamePair& pair : kModelNames) {
    if (name == pair.stored) return std::string(pair.canonical);
  }
  if (!name.starts_with("blk.")) return std::nullopt;
  const size_t dot = name.find('.', 4);
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view rest = name.substr(dot + 1);
  for (const NamePair& pair : kLayerNames) {
    if (rest == pair.stored) {
      return "layers." + std::string(name.substr(4, dot - 4)) + "." + std::string(pair.canonical);
    }
  }
  return std::nullopt;
}

std::string canonical_from_hf(std::string_view name) {
  if (name.starts_with("model.")) name.remove_prefix(6);
  for (const NamePair& pair : kKvScaleNames) {
    if (!name.ends_with(pair.stored)) continue;
    return std::string(name.substr(0, name.size() - pair.stored.size())) +
           std::string(pair.canonical);
  }
  return std::string(name);
}

}  // namespace troupe
