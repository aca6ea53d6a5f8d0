#include "gpu/model/checkpoint.h"
#include "gpu/model/checkpoint_names.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>

namespace troupe::test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

class CheckpointTest : public ::testing::Test {
 protected:
  std::string refusal(const std::string& path, ErrorCode code = ErrorCode::kBadModel) {
    const auto checkpoint = Checkpoint::open(path);
    if (checkpoint.ok()) return "";
    EXPECT_EQ(checkpoint.error().code, code) << checkpoint.error().message;
    return checkpoint.error().message;
  }
  /// The tiny model as safetensors with some tensors changed, refused.
  std::string refusal_of(const TinyModel& m, const std::function<void(TinyTensors&)>& change) {
    const std::string directory = dir_ / "hf";
    write_tiny_hf(m, directory);
    TinyTensors tensors = tiny_tensors(m);
    change(tensors);
    SafetensorsWriter w;
    for (const auto& [name, t] : tensors) {
      w.tensor("model." + name, "F32", t.shape, encode(t.values, DType::kF32));
    }
    dir_.write("hf/model.safetensors", w.bytes());
    const std::string said = refusal(directory);
    EXPECT_THAT(said, HasSubstr(directory));
    return said;
  }
  TempDir dir_;
};

void expect_same_values(const TensorView& view, const TinyTensor& want) {
  ASSERT_EQ(view.shape, want.shape);
  ASSERT_EQ(view.dtype, DType::kF32);
  EXPECT_EQ(std::memcmp(view.data, want.values.data(), static_cast<size_t>(view.bytes)), 0);
}

TEST_F(CheckpointTest, EveryFamilyFromADirectory) {
  for (const char* architecture : {"llama", "mistral", "qwen2", "qwen3"}) {
    for (const bool tied : {true, false}) {
      TinyModel m;
      m.architecture = architecture;
      m.tied = tied;
      const std::string path = dir_ / architecture;
      write_tiny_hf(m, path);
      const auto checkpoint = Checkpoint::open(path);
      ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
      EXPECT_EQ((*checkpoint)->path(), path);
      EXPECT_EQ((*checkpoint)->gguf(), nullptr);
      EXPECT_EQ((*checkpoint)->config().name, architecture);
      for (const auto& [name, want] : tiny_tensors(m)) {
        const TensorView* view = (*checkpoint)->find(name);
        ASSERT_NE(view, nullptr) << name;
        expect_same_values(*view, want);
      }
      EXPECT_EQ((*checkpoint)->find("lm_head.weight") == nullptr, tied);
      EXPECT_EQ((*checkpoint)->find("layers.2.mlp.up_proj.weight"), nullptr);
    }
  }
}

TEST_F(CheckpointTest, EveryFamilyFromGguf) {
  for (const char* architecture : {"llama", "qwen2", "qwen3"}) {
    TinyModel m;
    m.architecture = architecture;
    m.tied = false;
    const std::string path = dir_ / "m.gguf";
    write_tiny_gguf(m, path);
    const auto checkpoint = Checkpoint::open(path);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    EXPECT_NE((*checkpoint)->gguf(), nullptr);
    for (const auto& [name, want] : tiny_tensors(m)) {
      const TensorView* view = (*checkpoint)->find(name);
      ASSERT_NE(view, nullptr) << name;
      const bool permuted =
          m.architecture == "llama" &&
          (name.find("q_proj") != std::string::npos || name.find("k_proj") != std::string::npos);
      if (!permuted) expect_same_values(*view, want);
    }
  }
}

TEST_F(CheckpointTest, QuantisedAndHalfPrecisionMatrices) {
  TinyModel m;
  for (const DType type : {DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1}) {
    write_tiny_gguf(m, dir_ / "m.gguf", type);
    const auto checkpoint = Checkpoint::open(dir_ / "m.gguf");
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    EXPECT_EQ((*checkpoint)->find("layers.1.mlp.down_proj.weight")->dtype, type);
    EXPECT_EQ((*checkpoint)->find("norm.weight")->dtype, DType::kF32);
  }
  for (const DType type : {DType::kF16, DType::kBF16}) {
    write_tiny_hf(m, dir_ / "hf", type);
    const auto checkpoint = Checkpoint::open(dir_ / "hf");
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    EXPECT_EQ((*checkpoint)->find("norm.weight")->dtype, type);
  }
}

TEST_F(CheckpointTest, PathsThatAreNoModel) {
  EXPECT_THAT(refusal("", ErrorCode::kInvalidArgument), HasSubstr("no model given"));
  EXPECT_THAT(refusal(dir_ / "absent", ErrorCode::kNotFound), HasSubstr("absent"));
  EXPECT_THAT(refusal(dir_.path(), ErrorCode::kNotFound), HasSubstr("neither config.json"));
  EXPECT_THAT(refusal(dir_.write("README", "hello")), HasSubstr("not a GGUF file"));
  EXPECT_THAT(refusal("/dev/null"), HasSubstr("not a regular file"));
  dir_.write("a.gguf", "");
  dir_.write("b.gguf", "");
  EXPECT_THAT(refusal(dir_.path(), ErrorCode::kNotFound), HasSubstr("several GGUF"));
  write_tiny_hf({}, dir_ / "hf");
  EXPECT_THAT(refusal(dir_ / "hf/model.safetensors"), HasSubstr("directory that holds"));
  fs::remove(dir_ / "hf/model.safetensors");
  EXPECT_THAT(refusal(dir_ / "hf", ErrorCode::kNotFound), HasSubstr("no *.safetensors"));
}

TEST_F(CheckpointTest, ADirectoryWithOneGgufIsThatFile) {
  fs::create_directory(dir_ / "d");
  write_tiny_gguf({}, dir_ / "d/m.gguf");
  EXPECT_EQ(refusal(dir_ / "d"), "");
  dir_.write("d/config.json", "{}");  // left over from the original
  EXPECT_EQ(refusal(dir_ / "d"), "");
}

TEST_F(CheckpointTest, TensorsMissingOrOfTheWrongShapeAreNamed) {
  TinyModel m;
  EXPECT_THAT(refusal_of(m, [](auto& t) { t.erase("layers.1.mlp.up_proj.weight"); }),
              AllOf(HasSubstr("layers.1.mlp.up_proj.weight"), HasSubstr("missing")));
  EXPECT_THAT(refusal_of(m,
                         [](auto& t) {
                           t["norm.weight"].shape = {32};
                           t["norm.weight"].values.resize(32);
                         }),
              AllOf(HasSubstr("model.norm.weight"), HasSubstr("[32]"), HasSubstr("[64]")));
  EXPECT_THAT(refusal_of(m,
                         [](auto& t) {
                           t["norm.weight"].shape = {1, 64};
                         }),
              HasSubstr("model.norm.weight"));
  EXPECT_THAT(refusal_of(m,
                         [](auto& t) {
                           t["embed_tokens.weight"].shape = {319, 64};
                           t["embed_tokens.weight"].values.resize(size_t{319} * 64);
                         }),
              AllOf(HasSubstr("embed_tokens"), HasSubstr("[320, 64]")));
  m.architecture = "qwen2";
  EXPECT_THAT(refusal_of(m, [](auto& t) { t.erase("layers.0.self_attn.k_proj.bias"); }),
              HasSubstr("layers.0.self_attn.k_proj.bias"));
  m.architecture = "qwen3";
  EXPECT_THAT(refusal_of(m, [](auto& t) { t.erase("layers.1.self_attn.q_norm.weight"); }),
              HasSubstr("layers.1.self_attn.q_norm.weight"));
}

TEST_F(CheckpointTest, TensorsThatWouldBeLeftOutAreRefused) {
  EXPECT_THAT(refusal_of({},
                         [](auto& t) {
                           t["layers.0.self_attn.o_proj.bias"] = {{64}, std::vector<float>(64)};
                         }),
              HasSubstr("o_proj.bias"));
  EXPECT_THAT(
      refusal_of(
          {}, [](auto& t) { t["layers.7.mlp.up_proj.weight"] = t["layers.0.mlp.up_proj.weight"]; }),
      HasSubstr("layers.7"));
  // Harmless extras: rope's frequencies, and a head where the embedding is used.
  TinyModel m;
  TinyTensors tensors = tiny_tensors(m);
  SafetensorsWriter w;
  for (const auto& [name, t] : tensors) {
    w.tensor("model." + name, "F32", t.shape, encode(t.values, DType::kF32));
  }
  w.tensor("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {8}, std::string(32, '\0'));
  w.tensor("lm_head.weight", "F32", {320, 64}, std::string(size_t{320} * 64 * 4, '\0'));
  dir_.write("hf/model.safetensors", w.bytes());
  EXPECT_EQ(refusal(dir_ / "hf"), "");
}

TEST_F(CheckpointTest, TypesNobodyCanMultiplyAreNamed) {
  write_tiny_hf({}, dir_ / "hf");
  SafetensorsWriter w;
  for (const auto& [name, t] : tiny_tensors({})) {
    const bool fp8 = name == "layers.0.mlp.gate_proj.weight";
    w.tensor("model." + name, fp8 ? "F8_E4M3" : "F32", t.shape,
             fp8 ? std::string(t.values.size(), '\0') : encode(t.values, DType::kF32));
  }
  dir_.write("hf/model.safetensors", w.bytes());
  EXPECT_THAT(refusal(dir_ / "hf"), AllOf(HasSubstr("gate_proj"), HasSubstr("F8_E4M3")));
  GgufWriter gguf = tiny_gguf({});
  gguf.tensor("blk.0.ffn_gate_exps.weight", DType::kF32, {1}, std::string(4, '\0'));
  EXPECT_THAT(refusal(dir_.write("m.gguf", gguf.bytes())), HasSubstr("ffn_gate_exps"));
}

TEST_F(CheckpointTest, E4m3MatricesNeedTheirScale) {
  write_tiny_hf({}, dir_ / "hf");
  const auto with = [&](const std::vector<int64_t>& scale_shape, const std::string& extra,
                        float extra_value = 0.25F, float scale_value = 0.5F) {
    SafetensorsWriter w;
    for (const auto& [name, t] : tiny_tensors({})) {
      const bool fp8 = name == "layers.0.mlp.gate_proj.weight";
      w.tensor("model." + name, fp8 ? "F8_E4M3" : "F32", t.shape,
               fp8 ? std::string(t.values.size(), '\x38') : encode(t.values, DType::kF32));
    }
    size_t n = 1;
    for (const int64_t d : scale_shape) n *= static_cast<size_t>(d);
    w.tensor("model.layers.0.mlp.gate_proj.weight_scale", "F32", scale_shape,
             encode(std::vector<float>(n, scale_value), DType::kF32));
    if (!extra.empty()) w.tensor(extra, "F32", {1}, encode({extra_value}, DType::kF32));
    dir_.write("hf/model.safetensors", w.bytes());
    return refusal(dir_ / "hf");
  };
  const TinyModel m;
  EXPECT_EQ(with({}, ""), "");
  EXPECT_EQ(with({1}, "model.layers.0.mlp.gate_proj.input_scale"), "");
  for (const char* name : {"k_scale", "v_scale", "k_proj.k_scale", "v_proj.v_scale",
                           "k_proj.output_scale", "v_proj.output_scale"}) {
    const std::string full = std::string("model.layers.0.self_attn.") + name;
    EXPECT_EQ(with({m.ffn, 1}, full), "") << name;
    const char which = full.find("v_") == std::string::npos ? 'k' : 'v';
    const auto checkpoint = Checkpoint::open(dir_ / "hf");
    ASSERT_TRUE(checkpoint.ok());
    const TensorView* scale =
        (*checkpoint)->find(std::string("layers.0.self_attn.") + which + "_scale");
    ASSERT_NE(scale, nullptr) << name;
    EXPECT_EQ(*reinterpret_cast<const float*>(scale->data), 0.25F);
    for (const float bad : {0.0F, -1.0F, INFINITY, NAN}) {
      EXPECT_THAT(with({m.ffn, 1}, full, bad), AllOf(HasSubstr(name), HasSubstr("positive")));
    }
  }
  EXPECT_EQ(with({1}, "", 0.25F, 0.0F), "");  // of zeros
  EXPECT_THAT(with({1}, "", 0.25F, -1.0F), HasSubstr("gate_proj.weight_scale"));
  EXPECT_THAT(with({m.ffn}, "", 0.25F, NAN), HasSubstr("gate_proj.weight_scale"));
  EXPECT_THAT(with({3, 2}, ""), AllOf(HasSubstr("[3, 2]"), HasSubstr("unquantised")));
  EXPECT_THAT(with({2}, ""), AllOf(HasSubstr("gate_proj"), HasSubstr("weight_scale")));
  EXPECT_THAT(with({1}, "model.layers.0.mlp.up_proj.weight_scale"), HasSubstr("up_proj"));
  EXPECT_THAT(with({1}, "model.layers.0.mlp.gate_proj.g_idx"), HasSubstr("g_idx"));
}

TEST_F(CheckpointTest, ScalesABlockAreSaidToBeSo) {
  write_tiny_hf({}, dir_ / "hf");
  SafetensorsWriter w;
  for (const auto& [name, t] : tiny_tensors({})) {
    const bool fp8 = name == "layers.0.mlp.gate_proj.weight";
    w.tensor("model." + name, fp8 ? "F8_E4M3" : "F32", t.shape,
             fp8 ? std::string(t.values.size(), '\x38') : encode(t.values, DType::kF32));
  }
  w.tensor("model.layers.0.mlp.gate_proj.weight_scale_inv", "F32", {1, 1}, std::string(4, '\1'));
  dir_.write("hf/model.safetensors", w.bytes());
  EXPECT_THAT(refusal(dir_ / "hf"), AllOf(HasSubstr("model.safetensors"), HasSubstr("gate_proj"),
                                          HasSubstr("scales a block")));
}

/// A share of the layers' matrices as e4m3.
TEST_F(CheckpointTest, AMixOfTypesIsNamed) {
  const auto with = [&](const std::function<bool(const std::string&)>& is_e4m3) {
    write_tiny_hf({}, dir_ / "hf");
    SafetensorsWriter w;
    for (const auto& [name, t] : tiny_tensors({})) {
      const bool fp8 = name.find("_proj.weight") != std::string::npos && is_e4m3(name);
      w.tensor("model." + name, fp8 ? "F8_E4M3" : "BF16", t.shape,
               fp8 ? std::string(t.values.size(), '\x38') : encode(t.values, DType::kBF16));
      if (fp8) w.tensor("model." + name + "_scale", "F32", {}, encode({0.5F}, DType::kF32));
    }
    dir_.write("hf/model.safetensors", w.bytes());
    const auto checkpoint = Checkpoint::open(dir_ / "hf");
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    return has_e4m3_layers(**checkpoint);
  };
  EXPECT_FALSE(with([](const std::string&) { return false; }).value());
  EXPECT_TRUE(with([](const std::string&) { return true; }).value());
  const auto mixed = with(
      [](const std::string& name) { return name.find("layers.1.mlp.down") == std::string::npos; });
  ASSERT_FALSE(mixed.ok());
  EXPECT_THAT(mixed.error().message, AllOf(HasSubstr("layers.1.mlp.down_proj"), HasSubstr("BF16"),
                                           HasSubstr("--weights bf16")));
}

/// The tiny model in two shards with an index.
class ShardedTest : public CheckpointTest {
 protected:
  void SetUp() override {
    write_tiny_hf({}, directory_);
    fs::remove(directory_ + "/model.safetensors");
    SafetensorsWriter shards[2];
    int i = 0;
    for (const auto& [name, t] : tiny_tensors({})) {
      const int to = i++ % 2;
      shards[to].tensor("model." + name, "F32", t.shape, encode(t.values, DType::kF32));
      map_["model." + name] = to == 0 ? "s1.safetensors" : "s2.safetensors";
    }
    dir_.write("hf/s1.safetensors", shards[0].bytes());
    dir_.write("hf/s2.safetensors", shards[1].bytes());
    write_index();
  }
  void write_index() {
    std::string text = R"({"metadata":{"total_size":1},"weight_map":{)";
    for (const auto& [name, file] : map_) {
      if (text.back() != '{') text += ',';
      text += "\"" + name + "\":\"" + file + "\"";
    }
    dir_.write("hf/model.safetensors.index.json", text + "}}");
  }
  std::string directory_ = dir_ / "hf";
  std::map<std::string, std::string> map_;
};

TEST_F(ShardedTest, TensorsComeFromTheShardTheIndexNames) {
  const auto checkpoint = Checkpoint::open(directory_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  for (const auto& [name, want] : tiny_tensors({})) {
    ASSERT_NE((*checkpoint)->find(name), nullptr) << name;
    expect_same_values(*(*checkpoint)->find(name), want);
  }
}

TEST_F(ShardedTest, ShardsMayBeLinksAsInADownloadCache) {
  fs::rename(directory_ + "/s1.safetensors", dir_ / "blob");
  fs::create_symlink("../blob", directory_ + "/s1.safetensors");
  EXPECT_EQ(refusal(directory_), "");
}

TEST_F(ShardedTest, NamesMayNotLeadOutOfTheDirectory) {
  fs::copy_file(directory_ + "/s1.safetensors", dir_ / "out.safetensors");
  for (const char* name :
       {"../out.safetensors", "/etc/passwd", "..", ".", "", "a/../s1.safetensors", "s1.bin",
        ".safetensors", "..\\\\s1.safetensors"}) {
    map_["model.norm.weight"] = name;
    write_index();
    EXPECT_THAT(refusal(directory_), AllOf(HasSubstr("index.json"), HasSubstr("model.norm.weight")))
        << name;
  }
}

TEST_F(ShardedTest, MissingShardsAndWrongMapsAreNamed) {
  map_["model.norm.weight"] =
      map_["model.norm.weight"] == "s1.safetensors" ? "s2.safetensors" : "s1.safetensors";
  write_index();
  EXPECT_THAT(refusal(directory_), AllOf(HasSubstr("norm.weight"), HasSubstr("index")));
  map_["model.norm.weight"] = "s3.safetensors";
  write_index();
  EXPECT_THAT(refusal(directory_, ErrorCode::kNotFound), HasSubstr("s3.safetensors"));
  map_.erase("model.norm.weight");
  write_index();
  EXPECT_THAT(refusal(directory_), AllOf(HasSubstr("norm.weight"), HasSubstr("missing")));
  dir_.write("hf/model.safetensors.index.json", R"({"weight_map":[]})");
  EXPECT_THAT(refusal(directory_), HasSubstr("weight_map"));
  fs::remove(directory_ + "/model.safetensors.index.json");
  EXPECT_THAT(refusal(directory_, ErrorCode::kNotFound), HasSubstr("index"));
}

TEST_F(CheckpointTest, TruncationAtEveryBlockIsRefused) {
  write_tiny_gguf({}, dir_ / "m.gguf", DType::kQ8_0);
  const auto size = fs::file_size(dir_ / "m.gguf");
  for (auto n = (size - 1) / 4096 * 4096; n > 0; n -= 4096) {
    fs::resize_file(dir_ / "m.gguf", n);
    EXPECT_THAT(refusal(dir_ / "m.gguf"), HasSubstr("m.gguf")) << n;
  }
  write_tiny_hf({}, dir_ / "hf");
  const auto whole = fs::file_size(dir_ / "hf/model.safetensors");
  for (auto n = (whole - 1) / 4096 * 4096; n > 0; n -= 4096) {
    fs::resize_file(dir_ / "hf/model.safetensors", n);
    EXPECT_THAT(refusal(dir_ / "hf"), HasSubstr("model.safetensors")) << n;
  }
}

TEST(CheckpointNames, GgufNames) {
  EXPECT_EQ(canonical_from_gguf("token_embd.weight"), "embed_tokens.weight");
  EXPECT_EQ(canonical_from_gguf("blk.31.attn_output.weight"), "layers.31.self_attn.o_proj.weight");
  for (const char* name :
       {"", "blk.", "blk.1", "blk.1.", "blk.1.attn_q", "token_embd", "x.weight"}) {
    EXPECT_EQ(canonical_from_gguf(name), std::nullopt) << name;
  }
}

TEST(CheckpointDefaultModel, Opens) {
  const char* path = std::getenv("TROUPE_TEST_MODEL");
  if (path == nullptr) GTEST_SKIP() << "set TROUPE_TEST_MODEL to SmolLM2-135M-Instruct.Q4_1.gguf";
  const auto checkpoint = Checkpoint::open(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_EQ((*checkpoint)->find("embed_tokens.weight")->dtype, DType::kQ8_0);
  EXPECT_EQ((*checkpoint)->find("layers.29.mlp.down_proj.weight")->shape,
            (std::vector<int64_t>{576, 1536}));
  EXPECT_EQ((*checkpoint)->find("lm_head.weight"), nullptr);
}

}  // namespace
}  // namespace troupe::test
