#include "gpu/model/config.h"
#include "gpu/model/config_sources.h"
#include "gpu/model/rope.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <numbers>

namespace troupe::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelConfig valid() {
  ModelConfig c;
  c.n_layers = 2;
  c.hidden = 64;
  c.n_heads = 4;
  c.n_kv_heads = 2;
  c.head_dim = 16;
  c.ffn = 96;
  c.vocab = 320;
  c.max_context = 256;
  EXPECT_TRUE(resolve_rope(c.rope, 16, 10000.0, {}).ok());
  return c;
}

TEST(CheckConfig, RefusesWhatCannotBeAndNamesTheField) {
  ASSERT_TRUE(check_config(valid()).ok());
  const auto field = [](auto change) {
    ModelConfig c = valid();
    change(c);
    const Status status = check_config(c);
    return status.ok() ? "" : status.error().param;
  };
  EXPECT_EQ(field([](auto& c) { c.n_layers = 0; }), "n_layers");
  EXPECT_EQ(field([](auto& c) { c.n_layers = 1000000000; }), "n_layers");
  EXPECT_EQ(field([](auto& c) { c.hidden = 0; }), "hidden");
  EXPECT_EQ(field([](auto& c) { c.hidden = -64; }), "hidden");
  EXPECT_EQ(field([](auto& c) { c.n_heads = 0; }), "n_heads");
  EXPECT_EQ(field([](auto& c) { c.n_kv_heads = 0; }), "n_kv_heads");
  EXPECT_EQ(field([](auto& c) { c.n_kv_heads = 3; }), "n_kv_heads");
  EXPECT_EQ(field([](auto& c) { c.n_kv_heads = 8; }), "n_kv_heads");
  EXPECT_EQ(field([](auto& c) { c.head_dim = 0; }), "head_dim");
  EXPECT_EQ(field([](auto& c) { c.ffn = 0; }), "ffn");
  EXPECT_EQ(field([](auto& c) { c.vocab = 0; }), "vocab");
  EXPECT_EQ(field([](auto& c) { c.max_context = 0; }), "max_context");
  EXPECT_EQ(field([](auto& c) { c.sliding_window = -1; }), "sliding_window");
  EXPECT_EQ(field([](auto& c) { c.rms_eps = 0; }), "rms_eps");
  EXPECT_EQ(field([](auto& c) { c.rms_eps = std::nanf(""); }), "rms_eps");
  EXPECT_EQ(field([](auto& c) { c.rope.rotary_dim = 18; }), "rope dimension");
  EXPECT_EQ(field([](auto& c) { c.rope.inverse_frequency.pop_back(); }), "rope frequencies");
  EXPECT_EQ(field([](auto& c) { c.rope.inverse_frequency[0] = INFINITY; }), "rope frequencies");
  EXPECT_EQ(field([](auto& c) { c.rope.magnitude = 0; }), "rope magnitude");
  EXPECT_EQ(field([](auto& c) { c.stop_tokens = {320}; }), "stop_tokens");
}

TEST(Rope, PlainAndLinear) {
  RopeConfig rope;
  ASSERT_TRUE(resolve_rope(rope, 8, 10000.0, {}).ok());
  EXPECT_THAT(rope.inverse_frequency, ElementsAre(1.0F, 0.1F, 0.01F, 0.001F));
  RopeScaling s;
  s.kind = RopeScaling::Kind::kLinear;
  s.factor = 4.0;
  ASSERT_TRUE(resolve_rope(rope, 8, 10000.0, s).ok());
  EXPECT_THAT(rope.inverse_frequency, ElementsAre(0.25F, 0.025F, 0.0025F, 0.00025F));
  EXPECT_EQ(rope.magnitude, 1.0F);
}

// Written from the wavelengths, as Llama 3.1's reference does; the code works with rotations.
TEST(Rope, Llama3KeepsShortWavesAndStretchesLongOnes) {
  RopeScaling s;
  s.kind = RopeScaling::Kind::kLlama3;
  s.factor = 8.0;
  s.original_context = 8192.0;
  RopeConfig rope;
  ASSERT_TRUE(resolve_rope(rope, 128, 500000.0, s).ok());
  int kept = 0;
  int stretched = 0;
  for (int i = 0; i < 64; ++i) {
    const double plain = std::pow(500000.0, -i / 64.0);
    const double wave = 2.0 * std::numbers::pi / plain;
    double want = plain;
    if (wave > 8192.0) {
      want = plain / 8.0;
      ++stretched;
    } else if (wave >= 2048.0) {
      const double smooth = (8192.0 / wave - 1.0) / 3.0;
      want = (1.0 - smooth) * plain / 8.0 + smooth * plain;
    } else {
      ++kept;
    }
    EXPECT_FLOAT_EQ(rope.inverse_frequency[static_cast<size_t>(i)], static_cast<float>(want)) << i;
  }
  EXPECT_GT(kept, 20);
  EXPECT_GT(stretched, 20);
}

TEST(Rope, YarnRampsBetweenTheTwoBetas) {
  RopeScaling s;
  s.kind = RopeScaling::Kind::kYarn;
  s.factor = 4.0;
  s.original_context = 32768.0;
  RopeConfig rope;
  ASSERT_TRUE(resolve_rope(rope, 128, 1000000.0, s).ok());
  EXPECT_FLOAT_EQ(rope.magnitude, static_cast<float>(0.1 * std::log(4.0) + 1.0));
  // 128 ln(32768 / (2 pi 32)) / (2 ln 1e6) = 23.6 and 128 ln(32768 / 2 pi) / (2 ln 1e6) = 39.7.
  for (int i = 0; i < 64; ++i) {
    const double plain = std::pow(1000000.0, -i / 64.0);
    const double ramp = std::min(1.0, std::max(0.0, (i - 23.0) / (40.0 - 23.0)));
    EXPECT_FLOAT_EQ(rope.inverse_frequency[static_cast<size_t>(i)],
                    static_cast<float>(plain * (1.0 - ramp) + plain / 4.0 * ramp))
        << i;
  }
  s.attention_factor = 1.25;
  ASSERT_TRUE(resolve_rope(rope, 128, 1000000.0, s).ok());
  EXPECT_EQ(rope.magnitude, 1.25F);
}

TEST(Rope, DivisorsApplyPerPair) {
  RopeScaling s;
  s.divisors = {1.0F, 2.0F, 4.0F, 8.0F};
  RopeConfig rope;
  ASSERT_TRUE(resolve_rope(rope, 8, 10000.0, s).ok());
  EXPECT_THAT(rope.inverse_frequency, ElementsAre(1.0F, 0.05F, 0.0025F, 0.000125F));
  s.divisors.pop_back();
  EXPECT_FALSE(resolve_rope(rope, 8, 10000.0, s).ok());
  s.divisors.push_back(0.0F);
  EXPECT_FALSE(resolve_rope(rope, 8, 10000.0, s).ok());
}

TEST(Rope, RefusesNumbersThatCannotBe) {
  RopeConfig rope;
  for (const double theta : {0.0, 1.0, -5.0, 1e308, std::nan(""), HUGE_VAL}) {
    EXPECT_FALSE(resolve_rope(rope, 8, theta, {}).ok()) << theta;
  }
  for (const int32_t dim : {0, -2, 7, 1 << 30}) EXPECT_FALSE(resolve_rope(rope, dim, 1e4, {}).ok());
  for (const double factor : {0.0, -1.0, std::nan(""), HUGE_VAL}) {
    RopeScaling s;
    s.kind = RopeScaling::Kind::kLinear;
    s.factor = factor;
    EXPECT_FALSE(resolve_rope(rope, 8, 1e4, s).ok()) << factor;
  }
  RopeScaling s;
  s.kind = RopeScaling::Kind::kLlama3;  // original_context missing
  EXPECT_FALSE(resolve_rope(rope, 8, 1e4, s).ok());
  s.original_context = 8192;
  s.high_frequency = s.low_frequency;
  EXPECT_FALSE(resolve_rope(rope, 8, 1e4, s).ok());
}

class HfConfig : public ::testing::Test {
 protected:
  Result<ModelConfig> read(const TinyModel& m, const std::string& extra = "") {
    dir_.write("config.json", tiny_config_json(m, extra));
    return config_from_hf(dir_.path());
  }
  std::string refusal(const std::string& extra, const std::string& architecture = "llama") {
    TinyModel m;
    m.architecture = architecture;
    const auto config = read(m, extra);
    if (config.ok()) return "";
    EXPECT_EQ(config.error().code, ErrorCode::kBadModel);
    EXPECT_THAT(config.error().message, HasSubstr("config.json"));
    return config.error().message;
  }
  TempDir dir_;
};

TEST_F(HfConfig, ReadsEveryFamily) {
  for (const char* architecture : {"llama", "mistral", "qwen2", "qwen3"}) {
    TinyModel m;
    m.architecture = architecture;
    const auto config = read(m);
    ASSERT_TRUE(config.ok()) << config.error().message;
    EXPECT_EQ(config->architecture, architecture);
    EXPECT_EQ(config->n_layers, 2);
    EXPECT_EQ(config->hidden, 64);
    EXPECT_EQ(config->n_heads, 4);
    EXPECT_EQ(config->n_kv_heads, 2);
    EXPECT_EQ(config->head_dim, 16);
    EXPECT_EQ(config->ffn, 96);
    EXPECT_EQ(config->vocab, 320);
    EXPECT_EQ(config->max_context, 256);
    EXPECT_FLOAT_EQ(config->rms_eps, 1e-5F);
    EXPECT_EQ(config->qkv_bias, m.architecture == "qwen2");
    EXPECT_EQ(config->qk_norm, m.architecture == "qwen3");
    EXPECT_TRUE(config->tied_head);
    EXPECT_FALSE(config->rope.interleaved);
    EXPECT_EQ(config->rope.rotary_dim, 16);
    EXPECT_THAT(config->stop_tokens, ElementsAre(2));
  }
}

TEST_F(HfConfig, OptionalFieldsHaveTheirClassDefaults) {
  // A repeated key overrides the earlier one, null counts as absent.
  EXPECT_EQ(read({}, R"(,"head_dim":null)")->head_dim, 16);
  EXPECT_EQ(read({}, R"(,"num_key_value_heads":null)")->n_kv_heads, 4);
  TinyModel qwen3;
  qwen3.architecture = "qwen3";
  EXPECT_EQ(read(qwen3, R"(,"head_dim":null)")->head_dim, 128);
  EXPECT_TRUE(read({}, R"(,"attention_bias":true)")->qkv_bias);
  EXPECT_FALSE(read({}, R"(,"tie_word_embeddings":null)")->tied_head);
}

TEST_F(HfConfig, StopTokensComeFromBothFiles) {
  dir_.write("generation_config.json", R"({"eos_token_id":[7,2,5]})");
  EXPECT_THAT(read({}, R"(,"eos_token_id":[2,9])")->stop_tokens, ElementsAre(2, 5, 7, 9));
  dir_.write("generation_config.json", R"({"eos_token_id":null})");
  EXPECT_THAT(read({}, R"(,"eos_token_id":null)")->stop_tokens, ElementsAre());
  dir_.write("generation_config.json", R"({"eos_token_id":[2,"x"]})");
  EXPECT_THAT(read({}).error().message, HasSubstr("generation_config.json"));
  dir_.write("generation_config.json", R"({"eos_token_id":320})");
  EXPECT_THAT(read({}).error().message, HasSubstr("stop_tokens"));
}

TEST_F(HfConfig, RopeScalingInBothSpellings) {
  EXPECT_FLOAT_EQ(
      read({}, R"(,"rope_scaling":{"type":"linear","factor":2.0})")->rope.inverse_frequency[0],
      0.5F);
  const auto modern = read({}, R"(,"rope_theta":null,"rope_parameters":{"rope_type":"default",)"
                               R"("rope_theta":100000000.0})");
  EXPECT_FLOAT_EQ(modern->rope.inverse_frequency[1], 0.1F);
  const auto yarn = read({}, R"(,"rope_scaling":{"rope_type":"yarn","factor":4.0,)"
                             R"("original_max_position_embeddings":256})");
  EXPECT_EQ(yarn->max_context, 1024);
  EXPECT_GT(yarn->rope.magnitude, 1.1F);
  const auto llama3 = read({}, R"(,"rope_scaling":{"rope_type":"llama3","factor":8.0,)"
                               R"("low_freq_factor":1.0,"high_freq_factor":4.0,)"
                               R"("original_max_position_embeddings":64})");
  EXPECT_FLOAT_EQ(llama3->rope.inverse_frequency[0], 1.0F);
  EXPECT_FLOAT_EQ(llama3->rope.inverse_frequency[7], std::pow(1e4F, -0.875F) / 8.0F);
  EXPECT_EQ(llama3->max_context, 256);
  const auto dynamic = read({}, R"(,"rope_scaling":{"type":"dynamic","factor":2.0})");
  EXPECT_FLOAT_EQ(dynamic->rope.inverse_frequency[1], read({})->rope.inverse_frequency[1]);
  EXPECT_EQ(dynamic->max_context, 256);
}

TEST_F(HfConfig, SlidingWindows) {
  TinyModel mistral;
  mistral.architecture = "mistral";
  EXPECT_EQ(read(mistral)->sliding_window, 0);  // null in the file
  EXPECT_EQ(read(mistral, R"(,"sliding_window":100)")->sliding_window, 100);
  EXPECT_EQ(read(mistral, R"(,"sliding_window":256)")->sliding_window, 0);  // never reached
  TinyModel qwen;
  qwen.architecture = "qwen2";
  EXPECT_EQ(read(qwen, R"(,"sliding_window":100)")->sliding_window, 0);
  EXPECT_EQ(read(qwen, R"(,"sliding_window":100,"use_sliding_window":true)")->sliding_window, 0);
  EXPECT_EQ(read(qwen, R"(,"sliding_window":100,"use_sliding_window":true,"max_window_layers":0)")
                ->sliding_window,
            100);
  EXPECT_THAT(
      refusal(R"(,"sliding_window":100,"use_sliding_window":true,"max_window_layers":1)", "qwen2"),
      HasSubstr("some layers only"));
}

TEST_F(HfConfig, RefusesWithTheFieldNamed) {
  EXPECT_THAT(refusal(R"(,"architectures":["MixtralForCausalLM"])"), HasSubstr("Mixtral"));
  EXPECT_THAT(refusal(R"(,"architectures":[])"), HasSubstr("architectures"));
  EXPECT_THAT(refusal(R"(,"hidden_size":0)"), HasSubstr("hidden"));
  EXPECT_THAT(refusal(R"(,"hidden_size":64.5)"), HasSubstr("hidden_size"));
  EXPECT_THAT(refusal(R"(,"hidden_size":"64")"), HasSubstr("hidden_size"));
  EXPECT_THAT(refusal(R"(,"hidden_size":true)"), HasSubstr("hidden_size"));
  EXPECT_THAT(refusal(R"(,"hidden_size":null)"), HasSubstr("'hidden_size' is missing"));
  EXPECT_THAT(refusal(R"(,"hidden_size":4294967360)"), HasSubstr("hidden_size"));
  EXPECT_THAT(refusal(R"(,"num_hidden_layers":1000000000)"), HasSubstr("n_layers"));
  EXPECT_THAT(refusal(R"(,"num_attention_heads":0)"), HasSubstr("n_heads"));
  EXPECT_THAT(refusal(R"(,"num_key_value_heads":3)"), HasSubstr("n_kv_heads"));
  EXPECT_THAT(refusal(R"(,"rope_theta":1e308)"), HasSubstr("rope theta"));
  EXPECT_THAT(refusal(R"(,"rope_scaling":{"type":"longrope"})"), HasSubstr("longrope"));
  EXPECT_THAT(refusal(R"(,"rope_scaling":[1])"), HasSubstr("rope_scaling"));
  EXPECT_THAT(refusal(R"(,"hidden_act":"gelu")"), HasSubstr("gelu"));
  EXPECT_THAT(refusal(R"(,"quantization_config":{})"), HasSubstr("quantization_config"));
  EXPECT_THAT(refusal(R"(,"mlp_bias":true)"), HasSubstr("mlp_bias"));
}

/// As compressed-tensors writes it.
std::string compressed(const std::string& weights, const std::string& rest = "") {
  return R"(,"quantization_config":{"config_groups":{"group_0":{"input_activations":{"dynamic":true,)"
         R"("num_bits":8,"strategy":"token","symmetric":true,"type":"float"},)"
         R"("output_activations":null,"targets":["Linear"],"weights":)" +
         weights +
         R"(}},"format":"float-quantized","ignore":["lm_head"],)"
         R"("quant_method":"compressed-tensors","quantization_status":"compressed")" +
         rest + "}";
}
constexpr const char* kChannel = R"({"num_bits":8,"type":"float","strategy":"channel"})";
constexpr const char* kGroup4 =
    R"({"num_bits":4,"type":"int","strategy":"group","group_size":128})";

TEST_F(HfConfig, TakesE4m3Models) {
  for (const std::string& known :
       {compressed(kChannel), compressed(R"({"num_bits":8,"type":"float","strategy":"tensor"})"),
        compressed(kChannel, R"(,"kv_cache_scheme":null,"sparsity_config":{})"),
        compressed(kChannel, R"(,"kv_cache_scheme":{"num_bits":8,"type":"float"})"),
        std::string(R"(,"quantization_config":{"quant_method":"modelopt","quant_algo":"FP8",)"
                    R"("kv_cache_scheme":{"dynamic":false,"num_bits":8,"type":"float"}})"),
        std::string(
            R"(,"quantization_config":{"quant_method":"fp8","activation_scheme":"static"})"),
        std::string(R"(,"quantization_config":null)")}) {
    EXPECT_EQ(refusal(known), "") << known;
  }
}

/// Each in the words that its tool uses; every refusal names file, field, format and a way out.
TEST_F(HfConfig, RefusesOtherQuantisationsByName) {
  const auto config = [](const std::string& fields) {
    return R"(,"quantization_config":{)" + fields + "}";
  };
  const std::pair<std::string, std::string> cases[] = {
      {compressed(kGroup4), "4-bit int with one scale a group"},
      {compressed(R"({"num_bits":4,"type":"float","strategy":"channel"})"), "4-bit float"},
      {compressed(R"({"num_bits":8,"type":"int","strategy":"channel"})"), "8-bit int"},
      {compressed(R"({"num_bits":8,"type":"float","strategy":"block"})"), "one scale a block"},
      {compressed(std::string(kChannel) + R"(},"group_1":{"targets":["Linear"],"weights":)" +
                  kGroup4),
       "a mix of fp8 and 4-bit int"},
      {compressed("[]"), "without 'weights'"},
      {compressed(kChannel, R"(,"kv_cache_scheme":{"num_bits":8,"type":"int"})"),
       "a KV cache of 8-bit int"},
      {compressed(kChannel, R"(,"sparsity_config":{"format":"sparse-24-bitmask"})"), "sparse-24"},
      {config(R"("quant_method":"modelopt","quant_algo":"NVFP4")"), "ModelOpt NVFP4"},
      {config(R"("quant_method":"modelopt","quant_algo":"MIXED_PRECISION")"), "a mix"},
      {config(R"("quant_method":"fp8","weight_block_size":[128,128])"), "block of [128,128]"},
      {config(R"("quant_method":"awq","bits":4,"group_size":128)"), "AWQ integers of 4 bits"},
      {config(R"("quant_method":"gptq","bits":4)"), "GPTQ integers of 4 bits"},
      {config(R"("quant_method":"bitsandbytes","load_in_4bit":true)"), "'bitsandbytes'"},
      {config(""), "without 'quant_method'"},
      {R"(,"quantization_config":7)", "no object"},
  };
  for (const auto& [extra, what] : cases) {
    EXPECT_THAT(refusal(extra), AllOf(HasSubstr("config.json: 'quantization_config'"),
                                      HasSubstr(what), HasSubstr("use the unquantised model")))
        << extra;
  }
}

/// ModelOpt's older checkpoints say it in a file of its own.
TEST_F(HfConfig, ReadsModelOptsOwnFile) {
  const auto with = [&](const std::string& quantization) {
    dir_.write("hf_quant_config.json",
               R"({"producer":{"name":"modelopt","version":"0.23.0"},"quantization":)" +
                   quantization + "}");
    return refusal("");
  };
  EXPECT_EQ(
      with(R"({"quant_algo":"FP8","kv_cache_quant_algo":"FP8","exclude_modules":["lm_head"]})"),
      "");
  EXPECT_EQ(with(R"({"quant_algo":"FP8","kv_cache_quant_algo":null})"), "");
  EXPECT_EQ(with(R"({"quant_algo":null,"kv_cache_quant_algo":"FP8"})"), "");
  EXPECT_THAT(with(R"({"quant_algo":"W4A8_AWQ","kv_cache_quant_algo":null})"),
              AllOf(HasSubstr("hf_quant_config.json"), HasSubstr("ModelOpt W4A8_AWQ")));
  EXPECT_THAT(with(R"({"quant_algo":"FP8","kv_cache_quant_algo":"NVFP4"})"),
              HasSubstr("a KV cache of type NVFP4"));
  EXPECT_THAT(with("[]"), HasSubstr("hf_quant_config.json"));
  dir_.write("hf_quant_config.json", "{");
  EXPECT_THAT(refusal(""), HasSubstr("hf_quant_config.json"));
}

TEST_F(HfConfig, FilesThatAreNoConfig) {
  EXPECT_EQ(config_from_hf(dir_.path()).error().code, ErrorCode::kNotFound);
  for (const std::string& text :
       {std::string("[1]"), std::string("{\"a\":"), std::string("\xff\xfe"),
        "{\"a\":" + std::string(100000, '[') + std::string(100000, ']') + "}"}) {
    dir_.write("config.json", text);
    const auto config = config_from_hf(dir_.path());
    ASSERT_FALSE(config.ok());
    EXPECT_EQ(config.error().code, ErrorCode::kBadModel);
    EXPECT_THAT(config.error().message, HasSubstr("config.json"));
  }
  const std::string whole = tiny_config_json({});
  for (size_t n = 1; n < whole.size(); ++n) {
    dir_.write("config.json", whole.substr(0, n));
    EXPECT_FALSE(config_from_hf(dir_.path()).ok()) << n;
  }
}

class GgufConfig : public ::testing::Test {
 protected:
  Result<ModelConfig> read(const GgufWriter& w) {
    auto file = GgufFile::open(dir_.write("m.gguf", w.bytes()));
    EXPECT_TRUE(file.ok()) << file.error().message;
    return config_from_gguf(**file);
  }
  TempDir dir_;
};

TEST_F(GgufConfig, MatchesTheDirectoryOfTheSameModel) {
  for (const char* architecture : {"llama", "mistral", "qwen2", "qwen3"}) {
    TinyModel m;
    m.architecture = architecture;
    m.tied = false;
    const auto gguf = read(tiny_gguf(m));
    ASSERT_TRUE(gguf.ok()) << gguf.error().message;
    write_tiny_hf(m, dir_.path());
    const auto hf = config_from_hf(dir_.path());
    ASSERT_TRUE(hf.ok()) << hf.error().message;
    EXPECT_EQ(gguf->architecture, m.architecture == "mistral" ? "llama" : m.architecture);
    EXPECT_EQ(gguf->n_layers, hf->n_layers);
    EXPECT_EQ(gguf->hidden, hf->hidden);
    EXPECT_EQ(gguf->n_heads, hf->n_heads);
    EXPECT_EQ(gguf->n_kv_heads, hf->n_kv_heads);
    EXPECT_EQ(gguf->head_dim, hf->head_dim);
    EXPECT_EQ(gguf->ffn, hf->ffn);
    EXPECT_EQ(gguf->vocab, hf->vocab);
    EXPECT_EQ(gguf->max_context, hf->max_context);
    EXPECT_EQ(gguf->rms_eps, hf->rms_eps);
    EXPECT_EQ(gguf->qkv_bias, hf->qkv_bias);
    EXPECT_EQ(gguf->qk_norm, hf->qk_norm);
    EXPECT_EQ(gguf->tied_head, hf->tied_head);
    EXPECT_EQ(gguf->rope.inverse_frequency, hf->rope.inverse_frequency);
    EXPECT_EQ(gguf->stop_tokens, hf->stop_tokens);
    EXPECT_EQ(gguf->rope.interleaved, gguf->architecture == "llama");
  }
}

TEST_F(GgufConfig, RopeScaling) {
  GgufWriter linear = tiny_gguf({});
  linear.kv("llama.rope.scaling.type", "linear");
  linear.kv("llama.rope.scaling.factor", 2.0F);
  EXPECT_EQ(read(linear)->rope.inverse_frequency[0], 0.5F);
  GgufWriter yarn = tiny_gguf({});
  yarn.kv("llama.rope.scaling.type", "yarn");
  yarn.kv("llama.rope.scaling.factor", 4.0F);
  yarn.kv("llama.rope.scaling.original_context_length", 256U);
  EXPECT_EQ(read(yarn)->max_context, 1024);
  GgufWriter divisors = tiny_gguf({});
  divisors.tensor("rope_freqs.weight", DType::kF32, {8},
                  encode({1, 1, 1, 1, 2, 2, 8, 8}, DType::kF32));
  EXPECT_FLOAT_EQ(read(divisors)->rope.inverse_frequency[7], std::pow(1e4F, -0.875F) / 8.0F);
  GgufWriter other = tiny_gguf({});
  other.kv("llama.rope.scaling.type", "longrope");
  EXPECT_THAT(read(other).error().message, HasSubstr("llama.rope.scaling.type"));
}

TEST_F(GgufConfig, RefusesWithTheKeyNamed) {
  GgufWriter none;
  EXPECT_THAT(read(none).error().message, HasSubstr("general.architecture"));
  GgufWriter other;
  other.kv("general.architecture", "gemma2");
  EXPECT_THAT(read(other).error().message, HasSubstr("gemma2"));
  GgufWriter bare;
  bare.kv("general.architecture", "llama");
  EXPECT_THAT(read(bare).error().message, HasSubstr("'llama.block_count' is missing"));
  GgufWriter text;
  text.kv("general.architecture", "llama");
  text.kv("llama.block_count", "2");
  EXPECT_THAT(read(text).error().message, HasSubstr("llama.block_count"));
  GgufWriter varies = tiny_gguf({});
  varies.kv("llama.expert_count", 8U);
  EXPECT_THAT(read(varies).error().message, HasSubstr("llama.expert_count"));
  GgufWriter split = tiny_gguf({});
  split.kv("split.count", uint16_t{3});
  EXPECT_THAT(read(split).error().message, HasSubstr("split.count"));
}

TEST(GgufConfigDefaultModel, IsWhatIsPublished) {
  const char* path = std::getenv("TROUPE_TEST_MODEL");
  if (path == nullptr) GTEST_SKIP() << "set TROUPE_TEST_MODEL to SmolLM2-135M-Instruct.Q4_1.gguf";
  const auto file = GgufFile::open(path);
  ASSERT_TRUE(file.ok()) << file.error().message;
  const auto c = config_from_gguf(**file);
  ASSERT_TRUE(c.ok()) << c.error().message;
  EXPECT_EQ(c->architecture, "llama");
  EXPECT_EQ(c->n_layers, 30);
  EXPECT_EQ(c->hidden, 576);
  EXPECT_EQ(c->n_heads, 9);
  EXPECT_EQ(c->n_kv_heads, 3);
  EXPECT_EQ(c->head_dim, 64);
  EXPECT_EQ(c->ffn, 1536);
  EXPECT_EQ(c->vocab, 49152);
  EXPECT_EQ(c->max_context, 8192);
  EXPECT_EQ(c->sliding_window, 0);
  EXPECT_FLOAT_EQ(c->rms_eps, 1e-5F);
  EXPECT_TRUE(c->tied_head);
  EXPECT_FALSE(c->qkv_bias);
  EXPECT_TRUE(c->rope.interleaved);
  EXPECT_FLOAT_EQ(c->rope.inverse_frequency[31], static_cast<float>(std::pow(1e5, -31.0 / 32.0)));
  EXPECT_THAT(c->stop_tokens, ElementsAre(0, 2, 4));
}

}  // namespace
}  // namespace troupe::test
