// Times the matrix multiplies of a rank on the GPU: JSON lines, one a (shape, format, tokens,
// kernel). Chains of multiplies in a CUDA graph over copies of the weights that together exceed the
// L2 cache, random data, median of replays.
//   cuda_linear_bench [8b|70b|head|tp] [tokens,...] [plans]
// Every kernel by itself, the own ones for few tokens in that many of the likeliest cuts, of the
// wide one the best three; "gated" is the gate and up multiply with silu behind it. Inside a step
// they run into each other: what counts there is cuda_step_bench.
#include "gpu/cuda/device.h"
#include "gpu/cuda/graph_timer.h"
#include "gpu/cuda/linear_gated.h"
#include "gpu/cuda/linear_lt.h"
#include "gpu/cuda/linear_stream.h"
#include "gpu/cuda/linear_wide.h"
#include "gpu/cuda/quantize.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

namespace {

using namespace troupe::cuda;

constexpr size_t kWorkspace = size_t{64} << 20;
constexpr size_t kWeightBytes = size_t{1200}
                                << 20;  // the largest matrix, or copies of smaller ones
constexpr int64_t kBeyondCache = int64_t{160} << 20;

struct NamedShape {
  const char* name;
  int64_t cols;
  int64_t rows;
  bool f32_out;
};
const std::vector<NamedShape> k8b = {{"qkv", 4096, 6144, false},
                                     {"o", 4096, 4096, false},
                                     {"gate_up", 4096, 28672, false},
                                     {"down", 14336, 4096, false}};
const std::vector<NamedShape> k70b = {{"qkv70", 8192, 10240, false},
                                      {"o70", 8192, 8192, false},
                                      {"gate_up70", 8192, 57344, false},
                                      {"down70", 28672, 8192, false}};
const std::vector<NamedShape> kHead = {{"head", 4096, 128256, true}};
const std::vector<NamedShape> kTp = {
    {"qkv70/2", 8192, 5120, false},      {"o70/2", 4096, 8192, false},
    {"gate_up70/2", 8192, 28672, false}, {"down70/2", 14336, 8192, false},
    {"qkv70/4", 8192, 2560, false},      {"o70/4", 2048, 8192, false},
    {"gate_up70/4", 8192, 14336, false}, {"down70/4", 7168, 8192, false},
    {"qkv70/8", 8192, 1280, false},      {"o70/8", 1024, 8192, false},
    {"gate_up70/8", 8192, 7168, false},  {"down70/8", 3584, 8192, false}};

struct Bench {
  Bench()
      : weights(kWeightBytes),
        tokens(size_t{16} << 20),
        out(size_t{160} << 20),
        workspace(kWorkspace),
        scales(size_t{1} << 17) {
    // Random bf16 bits of a sane size serve as e4m3 codes too, but for NaN codes.
    fill_normal(reinterpret_cast<__nv_bfloat16*>(weights.data()), kWeightBytes / 2, 0.02F, 1, 0);
    fill_normal(reinterpret_cast<__nv_bfloat16*>(tokens.data()), (int64_t{16} << 20) / 2, 1.0F, 2,
                0);
    TROUPE_CUDA(cudaMemset(scales.data(), 0, scales.bytes()));
    TROUPE_CUDA(cudaDeviceSynchronize());
  }
  DeviceBuffer<std::byte> weights, tokens, out, workspace;
  DeviceBuffer<float> scales;
  LtGemm lt;
  StreamGemm stream;
  WideGemm wide;
  GatedLinear gated;
  std::span<std::byte> space() { return {workspace.data(), workspace.size()}; }
};

std::string name_of(const StreamVariant& v) {
  return "stream-" + std::to_string(v.tokens) + "r" + std::to_string(v.rows) + "c" +
         std::to_string(v.cluster) + "b" + std::to_string(v.boxes) + "s" +
         std::to_string(v.stages) + "p" + std::to_string(v.persistent);
}

void print(const char* shape, const GemmShape& s, const std::string& kernel, double us) {
  const double bytes = static_cast<double>(s.rows * s.cols * element_bytes(s.format));
  const double flop = 2.0 * static_cast<double>(s.rows * s.cols) * s.n_tokens;
  std::printf(
      "{\"shape\":\"%s\",\"rows\":%lld,\"cols\":%lld,\"format\":\"%s\",\"tokens\":%d,"
      "\"kernel\":\"%s\",\"us\":%.2f,\"TB/s\":%.2f,\"TFLOP/s\":%.1f}\n",
      shape, static_cast<long long>(s.rows), static_cast<long long>(s.cols),
      s.format == WeightFormat::kFp8 ? "fp8" : "bf16", s.n_tokens, kernel.c_str(), us,
      bytes / us * 1e-6, flop / us * 1e-6);
  std::fflush(stdout);
}

void bench_wide(Bench& b, const NamedShape& named, const GemmShape& s,
                const std::function<GemmCall(int32_t)>& call, int32_t launches) {
  std::vector<std::pair<double, std::string>> timed;
  for (const WideVariant& v : b.wide.plans(s, kWorkspace)) {
    const double us = time_in_graph(
        [&](int32_t i, cudaStream_t st) { b.wide.run(v, s, call(i), b.space(), st); }, launches);
    timed.emplace_back(us, "wide-" + std::to_string(v.width) + "/" + std::to_string(v.split) +
                               (v.shares_weights != 0 ? "w" : "x"));
  }
  std::sort(timed.begin(), timed.end());
  timed.resize(std::min<size_t>(timed.size(), 3));
  for (const auto& [us, name] : timed) print(named.name, s, name, us);
  Weight w = {s.format, nullptr, b.scales.data(), s.rows, s.cols};
  if (std::string(named.name).rfind("gate_up", 0) != 0 || !b.gated.suits(w, s.n_tokens)) return;
  const double us = time_in_graph(
      [&](int32_t i, cudaStream_t st) {
        w.data = call(i).w;
        b.gated.run(static_cast<__nv_bfloat16*>(call(i).out), w, {call(i).x, b.scales.data()},
                    s.n_tokens, st);
      },
      launches);
  print(named.name, s, "gated", us);
}

void bench_ops(Bench& b, const std::vector<NamedShape>& shapes, const std::vector<int>& tokens,
               int most) {
  for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8}) {
    for (const NamedShape& named : shapes) {
      if (named.f32_out && format == WeightFormat::kFp8) continue;
      for (const int m : tokens) {
        const GemmShape s = {named.rows, named.cols, m, format, named.f32_out};
        const int64_t bytes = s.rows * s.cols * element_bytes(format);
        const int64_t copies = std::min((kBeyondCache + bytes - 1) / bytes,
                                        static_cast<int64_t>(kWeightBytes) / bytes);
        const auto call = [&](int32_t i) {
          return GemmCall{b.out.data(), b.weights.data() + i % copies * bytes, b.tokens.data()};
        };
        const auto launches = static_cast<int32_t>(std::max<int64_t>(2 * copies, 8));
        const auto plans = b.lt.plans(s, kWorkspace, 6);
        double best = 1e30;
        for (const LtPlan& plan : plans) {
          const double us = time_in_graph(
              [&](int32_t i, cudaStream_t st) { b.lt.run(plan, call(i), b.space(), st); },
              launches);
          if (&plan == &plans.front()) print(named.name, s, "cublaslt-first", us);
          best = std::min(best, us);
        }
        if (!plans.empty()) print(named.name, s, "cublaslt-best", best);
        int tried = 0;
        for (const StreamPlan& plan : b.stream.plans(s)) {
          const int width = plan.kernel->tokens;
          if (width < m || (width > 16 && width >= 2 * m)) continue;
          const double us = time_in_graph(
              [&](int32_t i, cudaStream_t st) { b.stream.run(plan, s, call(i), st); }, launches);
          print(named.name, s, name_of(plan.cut), us);
          if (++tried == most) break;
        }
        bench_wide(b, named, s, call, launches);
      }
    }
  }
}

std::vector<int> parse_tokens(const char* text) {
  std::vector<int> out;
  std::stringstream in(text);
  for (std::string part; std::getline(in, part, ',');) out.push_back(std::stoi(part));
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  Bench bench;
  const std::string set = argc > 1 ? argv[1] : "8b";
  const std::vector<int> tokens = parse_tokens(argc > 2 ? argv[2] : "1,16,64");
  const int most = argc > 3 ? std::stoi(argv[3]) : 8;
  bench_ops(bench,
            set == "70b"    ? k70b
            : set == "head" ? kHead
            : set == "tp"   ? kTp
                            : k8b,
            tokens, most);
  return 0;
}
