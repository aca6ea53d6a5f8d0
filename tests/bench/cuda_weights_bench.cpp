// Times how weights get onto the GPU: JSON lines.
//   cuda_weights_bench random                 dummy weights of Llama-3-8B (bf16, fp8) and 70B (fp8)
//   cuda_weights_bench load DIR [layers]      writes a synthetic Llama-3-8B with that many layers
//                                             (32 = 16 GB) to DIR and loads it, several ways
#include "gpu/cuda/device.h"
#include "gpu/cuda/weights.h"
#include "gpu/model/checkpoint.h"
#include "gpu/model/checkpoint_names.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace {

using namespace troupe;
using cuda::WeightFormat;
using cuda::Weights;

constexpr int32_t kShards = 4;

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

ModelConfig llama(int32_t layers, int32_t hidden, int32_t heads, int32_t ffn) {
  ModelConfig c;
  c.architecture = "llama";
  c.n_layers = layers;
  c.hidden = hidden;
  c.n_heads = heads;
  c.n_kv_heads = 8;
  c.head_dim = 128;
  c.ffn = ffn;
  c.vocab = 128256;
  c.max_context = 8192;
  return c;
}

void report(const std::string& what, const char* format, size_t bytes, double seconds) {
  std::printf("{\"weights\":\"%s\",\"format\":\"%s\",\"GB\":%.2f,\"s\":%.2f,\"GB/s\":%.1f}\n",
              what.c_str(), format, static_cast<double>(bytes) * 1e-9, seconds,
              static_cast<double>(bytes) * 1e-9 / seconds);
  std::fflush(stdout);
}

void bench_random(const char* name, const ModelConfig& config, WeightFormat format) {
  const auto begin = std::chrono::steady_clock::now();
  const auto made = Weights::random(config, make_shard(config, 32, 0, 1), format);
  if (!made) {
    std::printf("{\"weights\":\"%s\",\"error\":\"%s\"}\n", name, made.error().message.c_str());
    return;
  }
  report(name, format == WeightFormat::kFp8 ? "fp8" : "bf16", (*made)->bytes(),
         seconds_since(begin));
}

int64_t elements(const ExpectedTensor& t) {
  int64_t n = 1;
  for (const int64_t d : t.shape) n *= d;
  return n;
}

/// One file with `tensors`, bf16, their data one random block over and over.
void write_shard(const std::string& path, const std::vector<ExpectedTensor>& tensors,
                 const std::string& block) {
  std::string header = "{";
  int64_t at = 0;
  for (const ExpectedTensor& t : tensors) {
    const std::string name = t.name == "lm_head.weight" ? t.name : "model." + t.name;
    std::string shape;
    for (const int64_t d : t.shape) shape += (shape.empty() ? "" : ",") + std::to_string(d);
    const int64_t end = at + 2 * elements(t);
    header += (at == 0 ? "\"" : ",\"") + name + R"(":{"dtype":"BF16","shape":[)" + shape +
              R"(],"data_offsets":[)" + std::to_string(at) + "," + std::to_string(end) + "]}";
    at = end;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const uint64_t size = header.size();
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(&size), sizeof size);
  file.write(header.data(), static_cast<std::streamsize>(header.size()));
  for (int64_t left = at; left > 0;) {
    const int64_t n = std::min(left, static_cast<int64_t>(block.size()));
    file.write(block.data(), n);
    left -= n;
  }
}

void write_model(const std::string& directory, const ModelConfig& c) {
  std::filesystem::create_directories(directory);
  std::ofstream(directory + "/config.json")
      << R"({"architectures":["LlamaForCausalLM"],"hidden_size":)" << c.hidden
      << R"(,"intermediate_size":)" << c.ffn << R"(,"num_hidden_layers":)" << c.n_layers
      << R"(,"num_attention_heads":)" << c.n_heads << R"(,"num_key_value_heads":)" << c.n_kv_heads
      << R"(,"vocab_size":)" << c.vocab << R"(,"max_position_embeddings":)" << c.max_context
      << R"(,"tie_word_embeddings":false})";
  std::mt19937 random(1);
  std::string block(size_t{32} << 20, '\0');
  for (char& byte : block) byte = static_cast<char>(random() & 0x3fU);
  const std::vector<ExpectedTensor> all = expected_tensors(c);
  std::string map;
  for (int32_t i = 0; i < kShards; ++i) {
    const std::string name = "model-" + std::to_string(i) + ".safetensors";
    const size_t begin = all.size() * static_cast<size_t>(i) / kShards;
    const size_t end = all.size() * static_cast<size_t>(i + 1) / kShards;
    const std::vector<ExpectedTensor> part(all.begin() + static_cast<std::ptrdiff_t>(begin),
                                           all.begin() + static_cast<std::ptrdiff_t>(end));
    write_shard(directory + "/" + name, part, block);
    for (const ExpectedTensor& t : part) {
      map += (map.empty() ? "\"" : ",\"") +
             (t.name == "lm_head.weight" ? t.name : "model." + t.name) + "\":\"" + name + "\"";
    }
  }
  std::ofstream(directory + "/model.safetensors.index.json") << R"({"weight_map":{)" << map << "}}";
}

void bench_load(const std::string& directory, WeightFormat format, int32_t ranks, int32_t threads) {
  const auto begin = std::chrono::steady_clock::now();
  const auto checkpoint = Checkpoint::open(directory);
  if (!checkpoint) {
    std::printf("{\"error\":\"%s\"}\n", checkpoint.error().message.c_str());
    return;
  }
  const Shard shard = make_shard((*checkpoint)->config(), 32, 0, ranks);
  const auto loaded = Weights::load(**checkpoint, shard, true, format, threads);
  if (!loaded) {
    std::printf("{\"error\":\"%s\"}\n", loaded.error().message.c_str());
    return;
  }
  report("load, rank 0 of " + std::to_string(ranks) + ", " + std::to_string(threads) + " threads",
         format == WeightFormat::kFp8 ? "fp8" : "bf16", (*loaded)->bytes(), seconds_since(begin));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "random";
  TROUPE_CUDA(cudaFree(nullptr));  // the context is not what is measured
  if (mode == "random") {
    const ModelConfig small = llama(32, 4096, 32, 14336);
    bench_random("8b warm-up", llama(1, 4096, 32, 14336), WeightFormat::kBf16);
    bench_random("8b random", small, WeightFormat::kBf16);
    bench_random("8b random", small, WeightFormat::kFp8);
    bench_random("70b random", llama(80, 8192, 64, 28672), WeightFormat::kFp8);
    return 0;
  }
  if (mode != "load" || argc < 3) {
    std::fprintf(stderr, "usage: cuda_weights_bench random | load DIR [layers]\n");
    return 2;
  }
  const std::string directory = argv[2];
  const int32_t layers = argc > 3 ? std::atoi(argv[3]) : 32;
  write_model(directory, llama(layers, 4096, 32, 14336));
  for (const int32_t threads : {4, 8, 16}) bench_load(directory, WeightFormat::kBf16, 1, threads);
  bench_load(directory, WeightFormat::kFp8, 1, 8);
  bench_load(directory, WeightFormat::kBf16, 4, 8);
  return 0;
}
