#include "launch/bench_ops.h"

#include "gpu/cuda/attention.h"
#include "gpu/cuda/capacity.h"
#include "gpu/cuda/device.h"
#include "gpu/cuda/graph_timer.h"
#include "gpu/cuda/linear.h"
#include "gpu/cuda/ops.h"
#include "gpu/cuda/quantize.h"
#include "gpu/cuda/sampler.h"
#include "gpu/cuda/step_state.h"
#include "gpu/model/shard.h"
#include "launch/bench_device.h"
#include "launch/bench_ops_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace troupe {
namespace {

using namespace cuda;  // NOLINT(google-build-using-namespace): this file is about its kernels

constexpr int64_t kBeyondCache = int64_t{160} << 20;
constexpr int64_t kAlignment = 256;

/// Device memory that successive launches take different parts of, so that none finds its data in a
/// cache.
class Rotating {
 public:
  explicit Rotating(int64_t bytes) : memory_(static_cast<size_t>(bytes)) {}
  [[nodiscard]] std::byte* data() const { return memory_.data(); }
  [[nodiscard]] int64_t size() const { return static_cast<int64_t>(memory_.bytes()); }
  /// The part of launch `i`, which takes `bytes`.
  template <class T = std::byte>
  [[nodiscard]] T* part(int64_t i, int64_t bytes) const {
    const int64_t stride = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    const int64_t parts = std::max<int64_t>(size() / stride, 1);
    return reinterpret_cast<T*>(memory_.data() + i % parts * stride);
  }

 private:
  DeviceBuffer<std::byte> memory_;
};

template <class T>
DeviceBuffer<T> upload(const std::vector<T>& values) {
  DeviceBuffer<T> buffer(values.size());
  TROUPE_CUDA(cudaMemcpy(buffer.data(), values.data(), buffer.bytes(), cudaMemcpyHostToDevice));
  return buffer;
}

class OpsBench {
 public:
  OpsBench(const OpsOptions& options, const ModelConfig& config, std::string gpu)
      : options_(options),
        config_(config),
        gpu_(std::move(gpu)),
        shard_(make_shard(config, 32, 0, options.tp)),
        shape_{static_cast<int32_t>(shard_.query_heads.size()),
               static_cast<int32_t>(shard_.kv_heads.size()), config.head_dim},
        q_(int64_t{shape_.n_heads} * shape_.head_dim),
        kv_(int64_t{shape_.n_kv_heads} * shape_.head_dim),
        ffn_(shard_.ffn.size()),
        most_(largest_step(options)),
        in_(arena_bytes()),
        codes_(arena_bytes() / 2),
        out_(std::max(kBeyondCache, most_ * widest() * 4)),
        scales_(static_cast<size_t>(std::max<int64_t>(most_, widest()))),
        code_scales_(static_cast<size_t>(codes_.size() / 4096)) {
    fill_normal(reinterpret_cast<__nv_bfloat16*>(in_.data()), in_.size() / 2, 1.0F, 1, nullptr);
    quantize_rows(reinterpret_cast<uint8_t*>(codes_.data()), code_scales_.data(),
                  reinterpret_cast<const __nv_bfloat16*>(in_.data()),
                  static_cast<int32_t>(codes_.size() / 4096), 4096, nullptr);
    const std::vector<float> ones(scales_.size(), 1.0F);
    TROUPE_CUDA(cudaMemcpy(scales_.data(), ones.data(), scales_.bytes(), cudaMemcpyHostToDevice));
    if (!options.tune_file.empty()) linear_.load_table(options.tune_file);
    linear_.load_shipped_table();
  }

  void run() {
    print_head(options_, config_.name, gpu_);
    std::vector<int32_t> steps = options_.rows;
    steps.insert(steps.end(), options_.prefill.begin(), options_.prefill.end());
    for (const int32_t n : steps) {
      multiplies(n);
      small_ops(n);
    }
    for (const int32_t n : options_.rows) {
      samplers(n);
      for (const int32_t context : options_.contexts) decode_attention(n, context);
    }
    for (const int32_t n : options_.prefill) prefill_attention(n);
  }

 private:
  static int64_t largest_step(const OpsOptions& o) {
    int64_t most = 1;
    for (const int32_t n : o.rows) most = std::max<int64_t>(most, n);
    for (const int32_t n : o.prefill) most = std::max<int64_t>(most, n);
    return most;
  }
  [[nodiscard]] int64_t widest() const {
    return std::max({2 * ffn_, q_ + 2 * kv_, int64_t{config_.hidden}});
  }
  [[nodiscard]] int64_t arena_bytes() const {
    const int64_t head = shard_.vocab.size() * config_.hidden * 2;
    const int64_t all_tokens = most_ * widest() * 2;
    int64_t positions = 0;  // of the largest decoding batch
    for (const int32_t n : options_.rows)
      for (const int32_t context : options_.contexts)
        positions = std::max(positions, int64_t{n} * context);
    const int64_t kv_layer = positions * 2 * kv_ * 2;
    return std::max(
        {4 * kBeyondCache, head, kv_layer, 2 * ffn_ * config_.hidden * 2, 2 * all_tokens});
  }
  [[nodiscard]] int64_t weight_bytes() const { return options_.fp8 ? 1 : 2; }

  /// Times launch(i, stream), i counting up, on data that rotates.
  void measure(const OpCase& c, const std::function<void(int32_t, cudaStream_t)>& launch) {
    if (!options_.only.empty() && options_.only != c.op) return;
    const double touched = std::max(c.bytes, 1.0);
    const auto n = static_cast<int32_t>(
        std::clamp(2.0 * static_cast<double>(kBeyondCache) / touched, 6.0, 100.0));
    report(options_, config_.name, gpu_, c, time_in_graph(launch, n));
  }

  void multiplies(int32_t n) {
    const int64_t h = config_.hidden;
    multiply("qkv", n, q_ + 2 * kv_, h, false);
    multiply("o", n, h, q_, false);
    multiply("gate_up", n, 2 * ffn_, h, false);
    multiply("down", n, h, ffn_, false);
    if (n <= 512) multiply("head", n, shard_.vocab.size(), h, true);  // of rows that sample
  }
  void multiply(const char* op, int32_t n, int64_t rows, int64_t cols, bool is_head) {
    const bool fp8 = options_.fp8 && !is_head;
    const int64_t element = fp8 ? 1 : 2;
    const Rotating& weights = fp8 ? codes_ : in_;
    const int64_t matrix = rows * cols * element;
    const int64_t made = rows * n * (is_head ? 4 : 2);
    OpCase c = {op, n, 0, rows, cols};
    c.bytes = static_cast<double>(matrix + n * cols * element + made);
    c.flops = 2.0 * static_cast<double>(rows * cols) * n;
    c.fp8_arithmetic = fp8;
    DeviceBuffer<float> logits(is_head ? static_cast<size_t>(rows * n) : 0);
    measure(c, [&](int32_t i, cudaStream_t stream) {
      const Weight w = {fp8 ? WeightFormat::kFp8 : WeightFormat::kBf16, weights.part(i, matrix),
                        fp8 ? scales_.data() : nullptr, rows, cols};
      const Activation x = {weights.part(i, n * cols * element), fp8 ? scales_.data() : nullptr};
      if (is_head)
        linear_.run_f32(logits.data(), w, x, n, stream);
      else
        linear_.run(out_.part<__nv_bfloat16>(i, made), w, x, n, stream);
    });
  }

  /// What an op writes for the next multiply, at launch i.
  [[nodiscard]] ActivationOut activation_out(int32_t i, int32_t n, int64_t width) {
    std::byte* to = out_.part(i, n * width * 2);
    if (options_.fp8) return {nullptr, reinterpret_cast<uint8_t*>(to), token_scales()};
    return {reinterpret_cast<__nv_bfloat16*>(to), nullptr, nullptr};
  }
  [[nodiscard]] float* token_scales() { return scales_.data(); }
  /// A multiply's result that an op reads.
  [[nodiscard]] Product product(int32_t i, int32_t n, int64_t width) const {
    const float* scale = options_.fp8 ? scales_.data() : nullptr;
    return {in_.part<__nv_bfloat16>(i, n * width * 2), scale, scale};
  }

  void small_ops(int32_t n) {
    const int64_t h = config_.hidden;
    const auto moved = [&](const char* op, int64_t bytes_a_token) {
      OpCase c = {op, n};
      c.bytes = static_cast<double>(n) * static_cast<double>(bytes_a_token);
      return c;
    };
    const auto weight = [&](int32_t i, int64_t width) {
      return in_.part<__nv_bfloat16>(i + 1, width * 2);
    };
    measure(moved("norm", h * (6 + weight_bytes())), [&](int32_t i, cudaStream_t stream) {
      add_rms_norm(activation_out(i, n, h), in_.part<__nv_bfloat16>(i + 7, n * h * 2),
                   product(i, n, h), nullptr, weight(i, h), n, static_cast<int32_t>(h),
                   config_.rms_eps, stream);
    });
    measure(moved("act", ffn_ * (4 + weight_bytes())), [&](int32_t i, cudaStream_t stream) {
      silu_mul(activation_out(i, n, ffn_), product(i, n, 2 * ffn_), n, static_cast<int32_t>(ffn_),
               stream);
    });
    if (options_.fp8) {
      measure(moved("quantise", q_ * 3), [&](int32_t i, cudaStream_t stream) {
        quantize_rows(out_.part<uint8_t>(i, n * q_), scales_.data(),
                      in_.part<__nv_bfloat16>(i, n * q_ * 2), n, static_cast<int32_t>(q_), stream);
      });
    }
    std::vector<int32_t> numbers(static_cast<size_t>(n));
    std::iota(numbers.begin(), numbers.end(), 0);
    const auto positions = upload(numbers);
    std::shuffle(numbers.begin(), numbers.end(), std::mt19937(3));
    const auto slots = upload(numbers);
    const auto frequencies = upload(config_.rope.inverse_frequency);
    const Rope rope = {frequencies.data(), config_.rope.rotary_dim, config_.rope.interleaved,
                       config_.rope.magnitude};
    const int64_t kv_bytes = options_.fp8_kv ? 1 : 2;
    const KvFormat format = options_.fp8_kv ? KvFormat::kFp8 : KvFormat::kBf16;
    DeviceBuffer<std::byte> pool(static_cast<size_t>(n * 2 * kv_ * kv_bytes));
    measure(moved("rope_and_kv", (q_ + 2 * kv_) * 2 + q_ * 2 + 2 * kv_ * kv_bytes),
            [&](int32_t i, cudaStream_t stream) {
              rope_and_store_kv(out_.part<__nv_bfloat16>(i, n * q_ * 2), {pool.data(), format},
                                product(i, n, q_ + 2 * kv_), nullptr, shape_, rope,
                                config_.qk_norm ? weight(i, config_.head_dim) : nullptr,
                                config_.qk_norm ? weight(i + 1, config_.head_dim) : nullptr,
                                config_.rms_eps, positions.data(), slots.data(), n, stream);
            });
    const auto rows = static_cast<int32_t>(std::min<int64_t>(config_.vocab, in_.size() / (2 * h)));
    measure(moved("embedding", h * 4), [&](int32_t i, cudaStream_t stream) {
      embedding(out_.part<__nv_bfloat16>(i, n * h * 2),
                reinterpret_cast<const __nv_bfloat16*>(in_.data()), slots.data(), 0, rows, n,
                static_cast<int32_t>(h), stream);
    });
  }

  void samplers(int32_t n) {
    sample("sample_greedy", n, 0.0F, 1.0F);
    sample("sample_top_p", n, 0.8F, 0.95F);
  }
  void sample(const char* op, int32_t n, float temperature, float top_p) {
    const auto vocab = static_cast<int32_t>(shard_.vocab.size());
    StepState state({n, n, 16, vocab});
    Sampler sampler(n, vocab);
    for (int32_t row = 0; row < n; ++row) {
      SamplingParams params;
      params.temperature = temperature;
      params.top_p = top_p;
      params.seed = static_cast<uint64_t>(row);
      state.open_row(0, row, params, 1, {}, {}, nullptr);
      state.tokens(0)[static_cast<size_t>(row)] = {row, 1, 0, row};
      state.samples(0)[static_cast<size_t>(row)] = {row, 1, row, 0};
    }
    state.begin_step(n, n, n, nullptr);
    TROUPE_CUDA(cudaStreamSynchronize(nullptr));
    OpCase c = {op, n};
    c.bytes = static_cast<double>(n) * vocab * 4;
    measure(c, [&](int32_t i, cudaStream_t stream) {
      sampler.run(in_.part<float>(i, int64_t{n} * vocab * 4), n, state.device(), stream);
    });
  }

  void decode_attention(int32_t rows, int32_t context) {
    const int64_t slots = int64_t{rows} * context;
    const int64_t layer = slots * 2 * kv_ * (options_.fp8_kv ? 1 : 2);
    const Rotating& memory = options_.fp8_kv ? codes_ : in_;
    std::vector<int32_t> numbers(static_cast<size_t>(slots));
    std::iota(numbers.begin(), numbers.end(), 0);
    std::shuffle(numbers.begin(), numbers.end(), std::mt19937(5));
    const auto table = upload(numbers);
    numbers.resize(static_cast<size_t>(rows));
    std::iota(numbers.begin(), numbers.end(), 0);
    const auto row_of = upload(numbers);
    const auto contexts = upload(std::vector<int32_t>(static_cast<size_t>(rows), context));
    const KvFormat format = options_.fp8_kv ? KvFormat::kFp8 : KvFormat::kBf16;
    DecodeAttention attention(shape_, format, {.max_rows = rows, .batch_invariant = false});
    const DecodeBatch batch = {rows, row_of.data(), contexts.data(), {table.data(), context}};
    attention.plan(batch, nullptr);
    TROUPE_CUDA(cudaStreamSynchronize(nullptr));
    OpCase c = {"decode_attention", rows, context};
    c.bytes = static_cast<double>(layer) + static_cast<double>(rows) * static_cast<double>(q_) * 4;
    c.flops = 4.0 * static_cast<double>(slots) * static_cast<double>(q_);
    measure(c, [&](int32_t i, cudaStream_t stream) {
      attention.run(out_.part<__nv_bfloat16>(i, rows * q_ * 2),
                    in_.part<__nv_bfloat16>(i + 3, rows * q_ * 2), {memory.part(i, layer), format},
                    batch, scale(), 0, stream);
    });
    OpCase plan = {"decode_plan", rows, context};
    plan.bytes = static_cast<double>(rows) * 8;
    measure(plan, [&](int32_t, cudaStream_t stream) { attention.plan(batch, stream); });
  }

  void prefill_attention(int32_t n) {
    std::vector<int32_t> numbers(static_cast<size_t>(n));
    std::iota(numbers.begin(), numbers.end(), 0);
    std::shuffle(numbers.begin(), numbers.end(), std::mt19937(6));
    const auto table = upload(numbers);
    const int64_t layer = int64_t{n} * 2 * kv_ * (options_.fp8_kv ? 1 : 2);
    const Rotating& memory = options_.fp8_kv ? codes_ : in_;
    const KvFormat format = options_.fp8_kv ? KvFormat::kFp8 : KvFormat::kBf16;
    PrefillAttention attention(shape_, format, n, n);
    const Chunk chunk = {0, 0, n, n};
    attention.plan({&chunk, 1}, {table.data(), n}, nullptr);
    TROUPE_CUDA(cudaStreamSynchronize(nullptr));
    OpCase c = {"prefill_attention", n, n};
    c.bytes = static_cast<double>(layer) + static_cast<double>(n) * static_cast<double>(q_) * 4;
    c.flops = 2.0 * n * (n + 1.0) * static_cast<double>(q_);
    measure(c, [&](int32_t i, cudaStream_t stream) {
      attention.run(out_.part<__nv_bfloat16>(i, n * q_ * 2),
                    in_.part<__nv_bfloat16>(i + 3, n * q_ * 2), {memory.part(i, layer), format},
                    scale(), 0, stream);
    });
  }

  [[nodiscard]] float scale() const {
    return 1.0F / std::sqrt(static_cast<float>(shape_.head_dim));
  }

  const OpsOptions& options_;
  const ModelConfig& config_;
  std::string gpu_;
  Shard shard_;
  AttentionShape shape_;
  int64_t q_, kv_, ffn_;  // widths of this rank
  int64_t most_;          // tokens of the largest step
  Rotating in_;           // normal bf16 numbers
  Rotating codes_;        // e4m3 codes
  Rotating out_;
  DeviceBuffer<float> scales_;       // for tokens and channels alike
  DeviceBuffer<float> code_scales_;  // unused results of making the codes
  Linear linear_;
};

int run(int argc, char** argv) {
  OpsOptions options;
  if (!parse_ops_options(argc, argv, options)) {
    std::fprintf(stderr, "%s\n", kOpsUsage);
    return 2;
  }
  const Result<ModelConfig> config = find_bench_model(options.model);
  if (!config) {
    std::fprintf(stderr, "error: %s\n", config.error().message.c_str());
    return 2;
  }
  const Result<DeviceInfo> device = use_device(0);
  const Status fits = device
                          ? check_model(*config, make_shard(*config, 32, 0, options.tp), options.tp)
                          : Status(device.error());
  if (!fits) {
    std::fprintf(stderr, "error: %s\n", fits.error().message.c_str());
    return 2;
  }
  OpsBench(options, *config, device->name).run();
  return 0;
}

}  // namespace

int bench_ops(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}

}  // namespace troupe
