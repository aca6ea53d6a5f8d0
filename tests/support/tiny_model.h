#pragma once

#include "gpu/base/dtype.h"
#include "gpu/base/half.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/safetensors_writer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace troupe::test {

/// A random decoder small enough for tests. The same struct written by write_tiny_hf() and
/// write_tiny_gguf() is the same model: the GGUF's q and k rows are permuted for interleaved rope
/// where the architecture asks for it.
struct TinyModel {
  std::string architecture =
      "llama";  // "llama", "mistral", "qwen2" (q/k/v bias), "qwen3" (q/k norm)
  int32_t layers = 2;
  int32_t hidden = 64;
  int32_t heads = 4;
  int32_t kv_heads = 2;
  int32_t head_dim = 16;
  int32_t ffn = 96;
  int32_t vocab = 320;  // >= 259: three control tokens and all bytes; the rest are fillers
  int32_t context = 256;
  float rope_theta = 10000.0F;
  float rms_eps = 1e-5F;
  bool tied = true;
  uint32_t seed = 1;
};

/// Row-major fp32 tensor under its canonical name (checkpoint.h).
struct TinyTensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};
using TinyTensors = std::map<std::string, TinyTensor>;

/// The model's weights before any rounding to a file format. Same struct, same weights.
inline TinyTensors tiny_tensors(const TinyModel& m) {
  TinyTensors out;
  std::mt19937 random(m.seed);
  // Own scaling of the engine's bits: std distributions differ between standard libraries.
  const auto uniform = [&] { return static_cast<float>(random() >> 8) * 0x1p-23F - 1.0F; };
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, float mean,
                       float scale) {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    std::vector<float> values(static_cast<size_t>(n));
    for (float& v : values) v = mean + scale * uniform();
    out[name] = TinyTensor{std::move(shape), std::move(values)};
  };
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t cols) {
    add(name, {rows, cols}, 0.0F, std::sqrt(3.0F / static_cast<float>(cols)));
  };
  const int64_t q = int64_t{m.heads} * m.head_dim;
  const int64_t kv = int64_t{m.kv_heads} * m.head_dim;
  add("embed_tokens.weight", {m.vocab, m.hidden}, 0.0F, 1.0F);
  for (int32_t i = 0; i < m.layers; ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    add(layer + "input_layernorm.weight", {m.hidden}, 1.0F, 0.2F);
    matrix(layer + "self_attn.q_proj.weight", q, m.hidden);
    matrix(layer + "self_attn.k_proj.weight", kv, m.hidden);
    matrix(layer + "self_attn.v_proj.weight", kv, m.hidden);
    matrix(layer + "self_attn.o_proj.weight", m.hidden, q);
    if (m.architecture == "qwen2") {
      add(layer + "self_attn.q_proj.bias", {q}, 0.0F, 0.3F);
      add(layer + "self_attn.k_proj.bias", {kv}, 0.0F, 0.3F);
      add(layer + "self_attn.v_proj.bias", {kv}, 0.0F, 0.3F);
    }
    if (m.architecture == "qwen3") {
      add(layer + "self_attn.q_norm.weight", {m.head_dim}, 1.0F, 0.2F);
      add(layer + "self_attn.k_norm.weight", {m.head_dim}, 1.0F, 0.2F);
    }
    add(layer + "post_attention_layernorm.weight", {m.hidden}, 1.0F, 0.2F);
    matrix(layer + "mlp.gate_proj.weight", m.ffn, m.hidden);
    matrix(layer + "mlp.up_proj.weight", m.ffn, m.hidden);
    matrix(layer + "mlp.down_proj.weight", m.hidden, m.ffn);
  }
  add("norm.weight", {m.hidden}, 1.0F, 0.2F);
  if (!m.tied) matrix("lm_head.weight", m.vocab, m.hidden);
  return out;
}

/// bfloat16 bits, round to nearest even. Finite values only.
inline uint16_t bf16_from_float(float f) {
  const uint32_t bits = std::bit_cast<uint32_t>(f);
  return static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

/// `values` in a file format: F32, F16, BF16, Q8_0, Q4_0 or Q4_1 (ggml's block layouts). Quantised
/// formats need a multiple of 32 values.
inline std::string encode(const std::vector<float>& values, DType type) {
  ByteWriter out;
  const auto f16 = [&](float f) { out.put(f16_from_float(f)); };
  const auto rounded = [](float x, int low, int high) {
    return std::clamp(static_cast<int>(std::lround(x)), low, high);
  };
  if (type == DType::kF32) {
    for (const float v : values) out.put(v);
  } else if (type == DType::kF16) {
    for (const float v : values) f16(v);
  } else if (type == DType::kBF16) {
    for (const float v : values) out.put(bf16_from_float(v));
  } else {
    for (size_t b = 0; b + 32 <= values.size(); b += 32) {
      const float* x = values.data() + b;
      const float low = *std::min_element(x, x + 32);
      const float high = *std::max_element(x, x + 32);
      const float largest = std::max(std::fabs(low), std::fabs(high));
      float scale = largest / 127.0F;
      if (type == DType::kQ4_0) scale = largest / 7.0F;
      if (type == DType::kQ4_1) scale = (high - low) / 15.0F;
      const float inverse = scale > 0.0F ? 1.0F / scale : 0.0F;
      f16(scale);
      if (type == DType::kQ8_0) {
        for (int i = 0; i < 32; ++i) {
          out.put(static_cast<int8_t>(rounded(x[i] * inverse, -127, 127)));
        }
        continue;
      }
      if (type == DType::kQ4_1) f16(low);
      const auto nibble = [&](float v) {
        return type == DType::kQ4_0 ? rounded(v * inverse, -8, 7) + 8
                                    : rounded((v - low) * inverse, 0, 15);
      };
      for (int i = 0; i < 16; ++i) {
        out.put(static_cast<uint8_t>(nibble(x[i]) | (nibble(x[i + 16]) << 4)));
      }
    }
  }
  return out.bytes();
}

/// A vocabulary of the GPT-2 kind without merges: <|endoftext|>, <|im_start|>, <|im_end|>, the 256
/// bytes in GPT-2's printable spelling, fillers.
inline std::vector<std::string> tiny_vocabulary(int32_t vocab) {
  std::vector<std::string> out = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  uint32_t next = 256;
  for (uint32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    const uint32_t code = printable ? b : next++;
    std::string utf8;
    if (code < 128) {
      utf8 += static_cast<char>(code);
    } else {
      utf8 += static_cast<char>(0xc0U | (code >> 6));
      utf8 += static_cast<char>(0x80U | (code & 0x3fU));
    }
    out.push_back(utf8);
  }
  while (static_cast<int32_t>(out.size()) < vocab) {
    out.push_back("<filler" + std::to_string(out.size()) + ">");
  }
  out.resize(static_cast<size_t>(vocab));
  return out;
}

inline constexpr const char* kTinyChatTemplate =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\\n' }}{% endif %}";

namespace detail {

inline void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline std::string json_string(const std::string& s) {
  std::string out = "\"";
  for (const char c : s) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

/// "layers.3.mlp.up_proj.weight" -> "blk.3.ffn_up.weight".
inline std::string gguf_name(const std::string& canonical) {
  static const std::map<std::string, std::string> kNames = {
      {"embed_tokens", "token_embd"},
      {"norm", "output_norm"},
      {"lm_head", "output"},
      {"input_layernorm", "attn_norm"},
      {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},
      {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"},
      {"self_attn.k_norm", "attn_k_norm"},
      {"post_attention_layernorm", "ffn_norm"},
      {"mlp.gate_proj", "ffn_gate"},
      {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},
  };
  const size_t kind = canonical.rfind('.');
  std::string stem = canonical.substr(0, kind);
  std::string prefix;
  if (stem.rfind("layers.", 0) == 0) {
    const size_t dot = stem.find('.', 7);
    prefix = "blk." + stem.substr(7, dot - 7) + ".";
    stem = stem.substr(dot + 1);
  }
  return prefix + kNames.at(stem) + canonical.substr(kind);
}

/// Rows of each head from (first half, second half) order to interleaved pairs.
inline TinyTensor interleave_rows(const TinyTensor& t, int32_t heads) {
  TinyTensor out = t;
  const int64_t cols = t.shape.size() < 2 ? 1 : t.shape[1];
  const int64_t dim = t.shape[0] / heads;
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < dim; ++i) {
      const int64_t from = h * dim + i;
      const int64_t to = h * dim + (i % (dim / 2)) * 2 + i / (dim / 2);
      std::copy_n(t.values.begin() + from * cols, cols, out.values.begin() + to * cols);
    }
  }
  return out;
}

}  // namespace detail

/// How a tensor becomes the bytes of a format.
using TinyEncoder = std::function<std::string(const TinyTensor&, DType)>;

/// The model as a GGUF builder, so that a test can still add to it. Matrices are written as
/// `matrices`, or as F32 where their width is no multiple of its block; vectors as F32.
/// `encoder` writes the matrices in formats that encode() does not have.
inline GgufWriter tiny_gguf(const TinyModel& m, DType matrices = DType::kF32,
                            const TinyEncoder& encoder = {}) {
  GgufWriter w;
  const std::string arch = m.architecture == "mistral" ? "llama" : m.architecture;
  const auto u32 = [](int32_t v) { return static_cast<uint32_t>(v); };
  w.kv("general.architecture", std::string_view(arch));
  w.kv("general.name", "tiny");
  w.kv(arch + ".block_count", u32(m.layers));
  w.kv(arch + ".context_length", u32(m.context));
  w.kv(arch + ".embedding_length", u32(m.hidden));
  w.kv(arch + ".feed_forward_length", u32(m.ffn));
  w.kv(arch + ".attention.head_count", u32(m.heads));
  w.kv(arch + ".attention.head_count_kv", u32(m.kv_heads));
  w.kv(arch + ".attention.key_length", u32(m.head_dim));
  w.kv(arch + ".attention.value_length", u32(m.head_dim));
  w.kv(arch + ".attention.layer_norm_rms_epsilon", m.rms_eps);
  w.kv(arch + ".rope.freq_base", m.rope_theta);
  w.kv("tokenizer.ggml.model", "gpt2");
  w.kv("tokenizer.ggml.pre", "smollm");
  w.kv("tokenizer.ggml.tokens", tiny_vocabulary(m.vocab));
  std::vector<int32_t> types(static_cast<size_t>(m.vocab), 1);
  for (size_t i = 0; i < 3 && i < types.size(); ++i) types[i] = 3;
  w.kv("tokenizer.ggml.token_type", types);
  w.kv("tokenizer.ggml.merges", std::vector<std::string>{});
  w.kv("tokenizer.ggml.bos_token_id", uint32_t{1});
  w.kv("tokenizer.ggml.eos_token_id", uint32_t{2});
  w.kv("tokenizer.ggml.add_bos_token", false);
  w.kv("tokenizer.chat_template", kTinyChatTemplate);
  for (const auto& [name, tensor] : tiny_tensors(m)) {
    TinyTensor t = tensor;
    if (arch == "llama" && name.find("q_proj.") != std::string::npos) {
      t = detail::interleave_rows(t, m.heads);
    }
    if (arch == "llama" && name.find("k_proj.") != std::string::npos) {
      t = detail::interleave_rows(t, m.kv_heads);
    }
    const bool quantise = t.shape.size() == 2 && t.shape[1] % block_elements(matrices) == 0;
    const DType type = quantise ? matrices : DType::kF32;
    w.tensor(detail::gguf_name(name), type, t.shape,
             quantise && encoder ? encoder(t, type) : encode(t.values, type));
  }
  return w;
}

inline void write_tiny_gguf(const TinyModel& m, const std::string& path,
                            DType matrices = DType::kF32) {
  detail::write_bytes(path, tiny_gguf(m, matrices).bytes());
}

/// config.json of the model; `extra` is spliced in, e.g. R"(,"rope_scaling":{...})".
inline std::string tiny_config_json(const TinyModel& m, const std::string& extra = "") {
  static const std::map<std::string, std::string> kClasses = {{"llama", "LlamaForCausalLM"},
                                                              {"mistral", "MistralForCausalLM"},
                                                              {"qwen2", "Qwen2ForCausalLM"},
                                                              {"qwen3", "Qwen3ForCausalLM"}};
  const auto number = [](const char* key, auto v) {
    return "\"" + std::string(key) + "\":" + std::to_string(v) + ",";
  };
  std::string out = "{\"architectures\":[\"" + kClasses.at(m.architecture) + "\"],";
  out += "\"model_type\":\"" + m.architecture + "\",\"hidden_act\":\"silu\",";
  out += number("hidden_size", m.hidden) + number("intermediate_size", m.ffn);
  out += number("num_hidden_layers", m.layers) + number("num_attention_heads", m.heads);
  out += number("num_key_value_heads", m.kv_heads) + number("head_dim", m.head_dim);
  out += number("vocab_size", m.vocab) + number("max_position_embeddings", m.context);
  out += number("rope_theta", m.rope_theta) + number("rms_norm_eps", m.rms_eps * 1e5);
  out.insert(out.size() - 1, "e-5");
  out += "\"sliding_window\":null,\"bos_token_id\":1,\"eos_token_id\":2,";
  out += std::string("\"tie_word_embeddings\":") + (m.tied ? "true" : "false");
  return out + extra + "}";
}

/// The model as a Hugging Face directory (created): config.json, generation_config.json,
/// tokenizer.json, tokenizer_config.json and model.safetensors with everything as `dtype` (F32, F16
/// or BF16).
inline void write_tiny_hf(const TinyModel& m, const std::string& directory,
                          DType dtype = DType::kF32, const std::string& extra_config = "") {
  std::filesystem::create_directories(directory);
  SafetensorsWriter w;
  for (const auto& [name, t] : tiny_tensors(m)) {
    const std::string full = name == "lm_head.weight" ? name : "model." + name;
    w.tensor(full, to_string(dtype), t.shape, encode(t.values, dtype));
  }
  detail::write_bytes(directory + "/model.safetensors", w.bytes());
  detail::write_bytes(directory + "/config.json", tiny_config_json(m, extra_config));
  detail::write_bytes(directory + "/generation_config.json", R"({"eos_token_id":[2,0]})");
  const std::vector<std::string> tokens = tiny_vocabulary(m.vocab);
  std::string added;
  std::string vocab;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::string quoted = detail::json_string(tokens[i]);
    if (i < 3) {
      added +=
          std::string(i == 0 ? "" : ",") + "{\"id\":" + std::to_string(i) +
          ",\"content\":" + quoted +
          R"(,"single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true})";
    }
    vocab += std::string(i == 0 ? "" : ",") + quoted + ":" + std::to_string(i);
  }
  detail::write_bytes(
      directory + "/tokenizer.json",
      R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[)" + added +
          R"(],"normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},)"
          R"("post_processor":null,"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{)" +
          vocab + R"(},"merges":[]}})");
  std::string chat;
  for (const char* c = kTinyChatTemplate; *c != '\0'; ++c)
    chat += *c == '\\' ? "\\\\" : std::string(1, *c);
  detail::write_bytes(
      directory + "/tokenizer_config.json",
      R"({"bos_token":"<|im_start|>","eos_token":"<|im_end|>","chat_template":")" + chat + "\"}");
}

}  // namespace troupe::test
