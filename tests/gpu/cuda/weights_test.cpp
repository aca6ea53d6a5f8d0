#include "gpu/cuda/weights.h"

#include "gpu/base/half.h"
#include "gpu/quant/dequantize.h"
#include "tests/support/cuda_device.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace troupe::cuda {
namespace {

using test::CudaTest;
using test::download;
using test::TinyModel;
using ::testing::HasSubstr;

/// A slice as the file has it, in fp32.
struct Source {
  std::string name;
  Range rows;
  Range cols;
};

class WeightsTest : public CudaTest {
 protected:
  std::unique_ptr<Checkpoint> open(const std::string& path) {
    auto opened = Checkpoint::open(path);
    EXPECT_TRUE(opened.ok()) << opened.error().message;
    return opened.ok() ? std::move(opened).value() : nullptr;
  }

  /// What a matrix stacked from these slices holds.
  static std::vector<float> expected(const Checkpoint& checkpoint,
                                     const std::vector<Source>& slices) {
    std::vector<float> out;
    for (const Source& s : slices) {
      const TensorView& t = *checkpoint.find(s.name);
      const TensorView* scale = checkpoint.find(s.name + "_scale");
      std::vector<float> row(static_cast<size_t>(s.cols.size()));
      for (int64_t r = s.rows.begin; r < s.rows.end; ++r) {
        dequantize_row(t.dtype, t.data + r * t.row_bytes(), s.cols.begin, s.cols.end, row.data());
        float factor = 1.0F;
        if (scale != nullptr) {
          const bool one = scale->bytes == block_bytes(scale->dtype);
          dequantize_row(scale->dtype, scale->data + (one ? 0 : r) * block_bytes(scale->dtype), 0,
                         1, &factor);
        }
        for (const float v : row) out.push_back(v * factor);
      }
    }
    return out;
  }

  static void expect_bf16(const __nv_bfloat16* got, const std::vector<float>& want,
                          const std::string& what) {
    ASSERT_NE(got, nullptr) << what;
    const auto values = download(reinterpret_cast<const uint16_t*>(got), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_EQ(values[i], bf16_from_float(want[i])) << what << ", element " << i;
    }
  }
  /// Codes times scales within half a step of an e4m3 number.
  static void expect_fp8(const Weight& got, const std::vector<float>& want, bool is_exact,
                         const std::string& what) {
    const auto codes = download(static_cast<const uint8_t*>(got.data), want.size());
    const auto scales = download(got.channel_scale, static_cast<size_t>(got.rows));
    for (size_t i = 0; i < want.size(); ++i) {
      const float scale = scales[i / static_cast<size_t>(got.cols)];
      const float value = float_from_e4m3(codes[i]) * scale;
      // The bf16 on the way costs half a step of its 8 bits.
      const float step = std::max(std::fabs(want[i]) * (0x1p-4F + 0x1p-8F), 0x1p-10F * scale);
      ASSERT_LE(std::fabs(value - want[i]), is_exact ? 0.0F : step * 1.0001F)
          << what << ", element " << i;
    }
  }
  static void expect_matrix(const Checkpoint& checkpoint, const Weight& got,
                            const std::vector<Source>& slices, bool is_exact,
                            const std::string& what) {
    const std::vector<float> want = expected(checkpoint, slices);
    ASSERT_EQ(got.rows * got.cols, static_cast<int64_t>(want.size())) << what;
    if (got.format == WeightFormat::kBf16) {
      expect_bf16(static_cast<const __nv_bfloat16*>(got.data), want, what);
    } else {
      expect_fp8(got, want, is_exact, what);
    }
  }

  /// Every matrix and vector of every rank's share against the file.
  static void expect_shares(const Checkpoint& checkpoint, int32_t n_ranks, WeightFormat format,
                            const std::string& what) {
    for (int32_t rank = 0; rank < n_ranks; ++rank) {
      const Shard s = make_shard(checkpoint.config(), 32, rank, n_ranks);
      const auto loaded = Weights::load(checkpoint, s, rank == 0, format, 3);
      ASSERT_TRUE(loaded.ok()) << loaded.error().message;
      expect_share(checkpoint, **loaded, s, format,
                   what + ", rank " + std::to_string(rank) + " of " + std::to_string(n_ranks));
      EXPECT_EQ((*loaded)->bytes(), Weights::bytes(checkpoint.config(), s, format)) << what;
    }
  }
  static void expect_share(const Checkpoint& checkpoint, const Weights& weights, const Shard& s,
                           WeightFormat format, const std::string& what) {
    const ModelConfig& c = checkpoint.config();
    const bool is_exact = stored_format(checkpoint).value() == WeightFormat::kFp8;
    const Range all = {0, c.hidden};
    const Range q = {s.query_heads.begin * c.head_dim, s.query_heads.end * c.head_dim};
    const Range kv = {s.kv_heads.begin * c.head_dim, s.kv_heads.end * c.head_dim};
    for (int32_t i = 0; i < c.n_layers; ++i) {
      const std::string layer = "layers." + std::to_string(i) + ".";
      const std::string attention = layer + "self_attn.";
      const LayerWeights& l = weights.layer(i);
      EXPECT_EQ(l.qkv.format, format);
      const auto matrix = [&](const Weight& w, const std::vector<Source>& slices) {
        expect_matrix(checkpoint, w, slices, is_exact, what + ", " + slices.front().name);
      };
      const auto vector = [&](const __nv_bfloat16* v, const std::vector<Source>& slices) {
        expect_bf16(v, expected(checkpoint, slices), what + ", " + slices.front().name);
      };
      matrix(l.qkv, {{attention + "q_proj.weight", q, all},
                     {attention + "k_proj.weight", kv, all},
                     {attention + "v_proj.weight", kv, all}});
      matrix(l.o, {{attention + "o_proj.weight", all, q}});
      matrix(l.gate_up, {{layer + "mlp.gate_proj.weight", s.ffn, all},
                         {layer + "mlp.up_proj.weight", s.ffn, all}});
      matrix(l.down, {{layer + "mlp.down_proj.weight", all, s.ffn}});
      vector(l.input_norm, {{layer + "input_layernorm.weight", {0, 1}, all}});
      vector(l.post_norm, {{layer + "post_attention_layernorm.weight", {0, 1}, all}});
      EXPECT_EQ(l.o_bias, nullptr);
      if (c.qkv_bias) {
        vector(l.qkv_bias, {{attention + "q_proj.bias", {0, 1}, q},
                            {attention + "k_proj.bias", {0, 1}, kv},
                            {attention + "v_proj.bias", {0, 1}, kv}});
      } else {
        EXPECT_EQ(l.qkv_bias, nullptr);
      }
      if (c.qk_norm) {
        vector(l.q_norm, {{attention + "q_norm.weight", {0, 1}, {0, c.head_dim}}});
        vector(l.k_norm, {{attention + "k_norm.weight", {0, 1}, {0, c.head_dim}}});
      } else {
        EXPECT_EQ(l.q_norm, nullptr);
      }
    }
    expect_bf16(weights.embedding(), expected(checkpoint, {{"embed_tokens.weight", s.vocab, all}}),
                what + ", embedding");
    expect_bf16(weights.final_norm(), expected(checkpoint, {{"norm.weight", {0, 1}, all}}),
                what + ", final norm");
    EXPECT_EQ(weights.head().rows, s.vocab.size());
    if (c.tied_head) {
      EXPECT_EQ(weights.head().data, weights.embedding());
    } else {
      expect_matrix(checkpoint, weights.head(), {{"lm_head.weight", s.vocab, all}}, false,
                    what + ", head");
    }
  }

  test::TempDir dir_;
};

TEST_F(WeightsTest, SharesOfEveryFamilyAndPlainType) {
  for (const char* architecture : {"llama", "qwen2", "qwen3"}) {
    for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
      TinyModel m;
      m.architecture = architecture;
      m.tied = type != DType::kF16;
      const std::string name = std::string(architecture) + "-" + std::string(to_string(type));
      test::write_tiny_hf(m, dir_ / name, type);
      const auto checkpoint = open(dir_ / name);
      ASSERT_NE(checkpoint, nullptr);
      EXPECT_EQ(stored_format(*checkpoint).value(), WeightFormat::kBf16);
      for (const int32_t ranks : {1, 2, 3}) {
        expect_shares(*checkpoint, ranks, WeightFormat::kBf16, name);
        expect_shares(*checkpoint, ranks, WeightFormat::kFp8, name + " as fp8");
      }
    }
  }
}

TEST_F(WeightsTest, SharesOfGgufBlocks) {
  for (const DType type : {DType::kQ8_0, DType::kQ4_1}) {
    const std::string path = dir_ / (std::string(to_string(type)) + ".gguf");
    test::write_tiny_gguf({}, path, type);
    const auto checkpoint = open(path);
    ASSERT_NE(checkpoint, nullptr);
    for (const int32_t ranks : {1, 2}) {
      expect_shares(*checkpoint, ranks, WeightFormat::kBf16, path);
      expect_shares(*checkpoint, ranks, WeightFormat::kFp8, path + " as fp8");
    }
  }
}

/// Matrices of layers as random e4m3 codes: attention with one scale a tensor, the MLP with one a
/// row.
void write_e4m3_model(const TinyModel& m, const std::string& directory) {
  test::write_tiny_hf(m, directory);
  std::mt19937 random(11);
  test::SafetensorsWriter w;
  for (const auto& [name, t] : test::tiny_tensors(m)) {
    const std::string full = name == "lm_head.weight" ? name : "model." + name;
    if (name.find("_proj.weight") == std::string::npos) {
      w.tensor(full, "BF16", t.shape, test::encode(t.values, DType::kBF16));
      continue;
    }
    std::string codes(t.values.size(), '\0');
    for (char& code : codes) {
      const auto bits = static_cast<uint32_t>(random());
      code = static_cast<char>(bits % 0x7f | (bits >> 31) << 7);
    }
    w.tensor(full, "F8_E4M3", t.shape, codes);
    const bool per_row = name.find("mlp") != std::string::npos;
    std::vector<float> scales(per_row ? static_cast<size_t>(t.shape[0]) : 1);
    for (float& s : scales) s = 1e-3F * static_cast<float>(1 + random() % 1000);
    w.tensor(full + "_scale", "F32",
             per_row ? std::vector<int64_t>{t.shape[0], 1} : std::vector<int64_t>{},
             test::encode(scales, DType::kF32));
    w.tensor(full.substr(0, full.size() - 6) + "input_scale", "F32", {}, std::string(4, '\0'));
  }
  test::detail::write_bytes(directory + "/model.safetensors", w.bytes());
}

TEST_F(WeightsTest, E4m3CheckpointsAreTakenAsTheyAre) {
  TinyModel m;
  m.tied = false;
  write_e4m3_model(m, dir_ / "e4m3");
  const auto checkpoint = open(dir_ / "e4m3");
  ASSERT_NE(checkpoint, nullptr);
  EXPECT_EQ(stored_format(*checkpoint).value(), WeightFormat::kFp8);
  for (const int32_t ranks : {1, 2}) {
    expect_shares(*checkpoint, ranks, WeightFormat::kFp8, "e4m3");
    expect_shares(*checkpoint, ranks, WeightFormat::kBf16, "e4m3 as bf16");
  }
}

TEST_F(WeightsTest, RandomWeightsKeepTheScaleOfWhatTheyMultiply) {
  ModelConfig c;
  c.n_layers = 2;
  c.hidden = 512;
  c.n_heads = 8;
  c.n_kv_heads = 2;
  c.head_dim = 64;
  c.ffn = 1024;
  c.vocab = 1000;
  c.qk_norm = true;
  c.qkv_bias = true;
  const Shard s = make_shard(c, 32, 1, 2);
  for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8}) {
    const auto made = Weights::random(c, s, format);
    ASSERT_TRUE(made.ok()) << made.error().message;
    EXPECT_EQ((*made)->bytes(), Weights::bytes(c, s, format));
    const Weight& down = (*made)->layer(1).down;
    EXPECT_EQ(down.rows, 512);
    EXPECT_EQ(down.cols, 512);
    const auto n = static_cast<size_t>(down.rows * down.cols);
    double squares = 0.0;
    if (format == WeightFormat::kBf16) {
      for (const uint16_t v : download(static_cast<const uint16_t*>(down.data), n)) {
        squares += std::pow(double{float_from_bf16(v)}, 2);
      }
    } else {
      const auto codes = download(static_cast<const uint8_t*>(down.data), n);
      const auto scales = download(down.channel_scale, 512);
      for (size_t i = 0; i < n; ++i) {
        squares += std::pow(double{float_from_e4m3(codes[i]) * scales[i / 512]}, 2);
      }
    }
    EXPECT_NEAR(squares / static_cast<double>(n) * 1024.0, 1.0, 0.03);
    expect_bf16((*made)->layer(0).input_norm, std::vector<float>(512, 1.0F), "norm");
    expect_bf16((*made)->layer(0).q_norm, std::vector<float>(64, 1.0F), "q norm");
    expect_bf16((*made)->layer(1).qkv_bias, std::vector<float>(4 * 64 + 2 * 64, 0.0F), "bias");
  }
}

TEST_F(WeightsTest, TooLargeIsSaidWithTheNumbers) {
  ModelConfig c;
  c.n_layers = 1000;
  c.hidden = 16384;
  c.n_heads = 128;
  c.n_kv_heads = 8;
  c.head_dim = 128;
  c.ffn = 65536;
  c.vocab = 128000;
  const auto made = Weights::random(c, make_shard(c, 32, 0, 1), WeightFormat::kBf16);
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, ErrorCode::kOutOfMemory);
  EXPECT_THAT(made.error().message, HasSubstr("GiB"));
}

TEST_F(WeightsTest, Fp8RefusesWidthsThatDoNotFit) {
  TinyModel m;
  m.hidden = 72;
  test::write_tiny_hf(m, dir_ / "odd");
  const auto checkpoint = open(dir_ / "odd");
  ASSERT_NE(checkpoint, nullptr);
  expect_shares(*checkpoint, 1, WeightFormat::kBf16, "odd");
  const Shard s = make_shard(checkpoint->config(), 32, 0, 1);
  const auto loaded = Weights::load(*checkpoint, s, true, WeightFormat::kFp8);
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.error().code, ErrorCode::kBadModel);
  EXPECT_THAT(loaded.error().message, HasSubstr("multiples of 16"));
}

}  // namespace
}  // namespace troupe::cuda
