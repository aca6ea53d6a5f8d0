// Times linear() on the shapes of the default model (SmolLM2-135M: hidden 576, MLP 1536, vocabulary
// 49152) with random weights: one JSON line per shape and number of tokens.
// Usage: linear_bench [threads] [kernels] [repetitions], or linear_bench --smoke: small, no figures
//   kernels: name of an instruction set, or "best". Times are the minimum over the repetitions;
//   cpu_us is the calling thread's processor time, which counts on a shared machine.
#include "gpu/device/stream.h"
#include "gpu/ops/linear_matrix.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <time.h>

namespace {

using troupe::DType;

struct Shape {
  const char* name;
  DType dtype;
  int64_t rows;
  int64_t cols;
  int64_t copies;  // a step goes through all layers, so one matrix alone would sit in the cache
  troupe::WeightMode mode = troupe::WeightMode::kFast;
};

// Random bytes with scales that are small numbers.
std::vector<std::byte> random_tensor(DType dtype, int64_t rows, int64_t cols, std::mt19937& rng) {
  const int64_t blocks = rows * cols / troupe::block_elements(dtype);
  const int64_t bytes = blocks * troupe::block_bytes(dtype);
  std::vector<std::byte> data(static_cast<size_t>(bytes));
  for (std::byte& b : data) b = static_cast<std::byte>(rng() & 0xffU);
  for (int64_t i = 0; i < blocks; ++i) {
    std::byte* block = data.data() + i * troupe::block_bytes(dtype);
    const uint16_t small = 0x2000;  // f16 2^-7
    switch (dtype) {
      case DType::kF32: {
        const float v = static_cast<float>(rng() % 100) / 1000.0F;
        std::memcpy(block, &v, 4);
        break;
      }
      case DType::kF16:
      case DType::kBF16: std::memcpy(block, &small, 2); break;
      case DType::kQ6_K: std::memcpy(block + 208, &small, 2); break;
      case DType::kQ4_1:
      case DType::kQ5_1:
      case DType::kQ4_K: std::memcpy(block + 2, &small, 2); [[fallthrough]];
      default: std::memcpy(block, &small, 2);
    }
  }
  return data;
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double thread_cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

void bench(const Shape& shape, const troupe::cpu::LinearKernels& kernels, int repetitions,
           troupe::Stream& stream) {
  std::mt19937 rng(1);
  std::vector<std::byte> data = random_tensor(shape.dtype, shape.rows, shape.cols, rng);
  troupe::TensorView tensor{.name = shape.name,
                            .dtype = shape.dtype,
                            .shape = {shape.rows, shape.cols},
                            .data = data.data(),
                            .bytes = static_cast<int64_t>(data.size())};
  const troupe::MatrixSlice slice{&tensor, 0, shape.rows, 0, shape.cols};
  std::vector<std::unique_ptr<troupe::cpu::Matrix::Impl>> copies;
  const double start = now();
  for (int64_t i = 0; i < shape.copies; ++i) {
    auto packed = troupe::cpu::pack_matrix({&slice, 1}, shape.mode, kernels, stream);
    if (!packed.ok()) {
      std::fprintf(stderr, "%s\n", packed.error().message.c_str());
      std::exit(2);
    }
    copies.push_back(std::move(*packed));
  }
  const double pack_s = now() - start;
  const int64_t bytes = copies.front()->bytes;
  std::printf("{\"bench\": \"pack\", \"shape\": \"%s\", \"kernels\": \"%s\", \"GB_per_s\": %.2f}\n",
              shape.name, kernels.name, static_cast<double>(bytes * shape.copies) / pack_s * 1e-9);
  for (const int64_t tokens : {1, 2, 4, 8, 16, 64, 512}) {
    if (tokens > 64 && shape.rows > 10000) continue;
    std::vector<float> x(static_cast<size_t>(tokens * shape.cols));
    std::vector<float> out(static_cast<size_t>(tokens * shape.rows));
    std::normal_distribution<float> normal;
    for (float& v : x) v = normal(rng);
    double best = 1e30;
    double best_cpu = 1e30;
    for (int r = 0; r < repetitions; ++r) {
      const double t0 = now();
      const double cpu0 = thread_cpu_seconds();
      for (const auto& m : copies) {
        troupe::cpu::multiply(out.data(), *m, x.data(), nullptr, static_cast<int32_t>(tokens),
                              stream);
      }
      best = std::min(best, (now() - t0) / static_cast<double>(shape.copies));
      best_cpu =
          std::min(best_cpu, (thread_cpu_seconds() - cpu0) / static_cast<double>(shape.copies));
    }
    const auto macs = static_cast<double>(shape.rows * shape.cols * tokens);
    std::printf(
        "{\"bench\": \"linear\", \"shape\": \"%s\", \"dtype\": \"%s\", \"rows\": %lld, \"cols\": "
        "%lld, \"kernels\": \"%s\", \"threads\": %d, \"tokens\": %lld, \"us\": %.2f, \"cpu_us\": "
        "%.2f, \"GB_per_s\": "
        "%.2f, \"Gmac_per_s\": %.1f}\n",
        shape.name, std::string(to_string(shape.dtype)).c_str(), static_cast<long long>(shape.rows),
        static_cast<long long>(shape.cols), kernels.name, stream.n_threads(),
        static_cast<long long>(tokens), best * 1e6, best_cpu * 1e6,
        static_cast<double>(bytes) / best * 1e-9, macs / best * 1e-9);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "--smoke") {
    troupe::Stream one(1);
    for (const troupe::cpu::LinearKernels* kernels : troupe::cpu::available_kernels()) {
      bench({"smoke", DType::kQ4_1, 48, 64, 1}, *kernels, 1, one);
    }
    return 0;
  }
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const std::string wanted = argc > 2 ? argv[2] : "best";
  const int repetitions = argc > 3 ? std::atoi(argv[3]) : 20;
  const std::vector<Shape> shapes = {
      {"gate_up", DType::kQ4_1, 3072, 576, 30},
      {"down", DType::kQ4_1, 576, 1536, 30},
      {"qkv", DType::kQ4_1, 960, 576, 30},
      {"o", DType::kQ4_1, 576, 576, 30},
      {"head", DType::kQ8_0, 49152, 576, 2},
      {"q4_0", DType::kQ4_0, 3072, 576, 10},
      {"q4_k", DType::kQ4_K, 3072, 768, 10},
      {"q6_k", DType::kQ6_K, 3072, 768, 10},
      {"q5_1", DType::kQ5_1, 3072, 576, 10},
      {"f16", DType::kF16, 3072, 576, 10},
      {"f32", DType::kF32, 3072, 576, 10},
      {"exact", DType::kQ4_1, 3072, 576, 10, troupe::WeightMode::kExact},
  };
  troupe::Stream stream(std::max(1, threads));
  bool found = false;
  for (const troupe::cpu::LinearKernels* kernels : troupe::cpu::available_kernels()) {
    if (wanted != "best" && wanted != kernels->name) continue;
    found = true;
    for (const Shape& shape : shapes) bench(shape, *kernels, std::max(1, repetitions), stream);
    if (wanted == "best") break;
  }
  if (!found) {
    std::fprintf(stderr, "this machine cannot run '%s'\n", wanted.c_str());
    return 2;
  }
  return 0;
}
