#include "launch/bench_step.h"

#include "gpu/cuda/device.h"
#include "gpu/cuda/executor.h"
#include "launch/bench_device.h"
#include "launch/bench_step_options.h"
#include "nccl/communicators.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace troupe {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// A model that has a shape and no tensors.
class ShapeOnly final : public Checkpoint {
 public:
  explicit ShapeOnly(ModelConfig config) : config_(std::move(config)) {}
  [[nodiscard]] const std::string& path() const override { return config_.name; }
  [[nodiscard]] const ModelConfig& config() const override { return config_; }
  [[nodiscard]] const TensorView* find(std::string_view /*name*/) const override { return nullptr; }
  [[nodiscard]] const GgufFile* gguf() const override { return nullptr; }

 private:
  ModelConfig config_;
};

class Bench {
 public:
  Bench(const BenchStepOptions& options, ModelConfig config, Executor& executor,
        const DeviceLimits& limits)
      : options_(options), config_(std::move(config)), executor_(executor), limits_(limits) {
    std::vector<int32_t> all(static_cast<size_t>(executor.n_slots()));
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), std::mt19937(1));
    free_ = std::move(all);
  }

  void decode(int32_t rows, int32_t context) {
    const auto need = static_cast<size_t>(rows) * static_cast<size_t>(context + options_.steps + 8);
    if (rows > options_.executor.max_rows || need > free_.size()) {
      std::printf("{\"bench\":\"step\",\"rows\":%d,\"context\":%d,\"skipped\":\"no room\"}\n", rows,
                  context);
      return;
    }
    const std::vector<int32_t> all = free_;
    StepPlan plan = begin();
    for (int32_t row = 0; row < rows; ++row) {
      const auto n = static_cast<size_t>(context - 1);
      plan.opened.push_back({row, context, sampling(row), take(n), std::vector<int32_t>(n, 7)});
      plan.work.push_back({row, 1, false, true});
      plan.tokens.push_back((1000 + row * 31) % known_tokens());
      plan.slots.push_back(take(1)[0]);
    }
    std::vector<StepPlan> plans = {std::move(plan)};
    for (int32_t i = 1; i < options_.steps; ++i) {
      plans.push_back(begin());
      for (int32_t row = 0; row < rows; ++row) {
        plans.back().work.push_back({row, 1, true, true});
        plans.back().slots.push_back(take(1)[0]);
      }
    }
    run(plans);
    executor_.reset();
    free_ = all;
    const double bytes = weight_bytes() + static_cast<double>(rows) *
                                              (context + options_.steps / 2.0) * slot_bytes();
    const double flops =
        rows * (flops_per_token() + attention_flops(context + options_.steps / 2.0));
    report(rows, context, 0, bytes, seconds(flops, rows), median(total_us_, 5));
  }

  void prefill(int32_t n) {
    if (n > static_cast<int32_t>(free_.size())) return;
    const std::vector<int32_t> all = free_;
    std::vector<double> us;
    for (int32_t repeat = 0; repeat < 6; ++repeat) {
      std::vector<StepPlan> plans;
      for (int32_t at = 0; at < n; at += options_.executor.max_step_tokens) {
        const int32_t part = std::min(options_.executor.max_step_tokens, n - at);
        plans.push_back(begin());
        if (at == 0) plans.back().opened.push_back({0, n, sampling(0), {}, {}});
        plans.back().work.push_back({0, part, false, at + part == n});
        for (int32_t i = 0; i < part; ++i)
          plans.back().tokens.push_back((at + i) * 131 % known_tokens());
        plans.back().slots = take(static_cast<size_t>(part));
      }
      run(plans);
      executor_.reset();
      free_ = all;
      us.push_back(std::accumulate(compute_us_.begin(), compute_us_.end(), 0.0));
    }
    const double attention = n * attention_flops(n / 2.0);
    const double gemm = n * (flops_per_token() - head_flops()) + head_flops();
    const double peak = options_.executor.fp8_weights ? limits_.fp8 : limits_.bf16;
    report(0, 0, n, weight_bytes(), gemm / peak + attention / limits_.bf16, median(us, 1));
  }

  /// What a service was asked, without the service: the same plans, one behind the other.
  void replay(const std::vector<RecordedLoad>& loads) {
    for (const RecordedLoad& load : loads) {
      const auto start = Clock::now();
      run(load.plans);
      const double took = seconds_since(start);
      std::printf(
          "{\"bench\":\"replay\",%s,\"steps\":%zu,\"tokens\":%lld,\"output_tokens\":%lld,"
          "\"served_s\":%.4f,\"bare_s\":%.4f,\"bare_output_tokens_per_s\":%.1f,"
          "\"served_to_bare\":%.4f,\"idle_us_median\":%.0f,\"idle_s\":%.4f}\n",
          head().c_str(), load.plans.size(), static_cast<long long>(n_tokens_),
          static_cast<long long>(n_sampled_), load.seconds, took,
          static_cast<double>(n_sampled_) / took, took / load.seconds, median(idle_us_, 1),
          std::accumulate(idle_us_.begin() + 1, idle_us_.end(), 0.0) * 1e-6);
      std::fflush(stdout);
    }
    executor_.reset();
  }

  /// All requests at once: as many rows as there are, prefill in the budget that decodes leave, or
  /// first.
  void saturate(int32_t requests, int32_t in, int32_t out) {
    struct Running {
      int32_t row, done_in, done_out;
      std::vector<int32_t> slots;
    };
    std::vector<Running> running;
    std::vector<int32_t> free_rows(static_cast<size_t>(options_.executor.max_rows));
    std::iota(free_rows.rbegin(), free_rows.rend(), 0);
    std::vector<int32_t> closed;
    const size_t per_request = static_cast<size_t>(in) + static_cast<size_t>(out);
    size_t promised = 0;
    int32_t waiting = requests;
    int64_t produced = 0;
    size_t in_flight = 0;
    int64_t steps = 0;
    total_us_.clear();
    idle_us_.clear();
    const auto start = Clock::now();
    while (waiting > 0 || !running.empty() || in_flight > 0) {
      while (in_flight < Executor::kMaxEnqueued && (waiting > 0 || !running.empty())) {
        StepPlan plan = begin();
        plan.closed = std::exchange(closed, {});
        int32_t budget = options_.executor.max_step_tokens;
        const auto fits = [&] {
          return waiting > 0 && !free_rows.empty() &&
                 promised + per_request <= static_cast<size_t>(executor_.n_slots());
        };
        const bool prompts = fits() || std::any_of(running.begin(), running.end(),
                                                   [&](auto& r) { return r.done_in < in; });
        for (Running& r : running) {
          if (r.done_in < in || (options_.prefill_first && prompts)) continue;
          plan.work.push_back({r.row, 1, true, true});
          plan.slots.push_back(take(1)[0]);
          r.slots.push_back(plan.slots.back());
          ++r.done_out;
          --budget;
        }
        const auto chunk = [&](Running& r) {
          const int32_t n = std::min(budget, in - r.done_in);
          if (n <= 0) return;
          const std::vector<int32_t> slots = take(static_cast<size_t>(n));
          plan.slots.insert(plan.slots.end(), slots.begin(), slots.end());
          r.slots.insert(r.slots.end(), slots.begin(), slots.end());
          for (int32_t i = 0; i < n; ++i)
            plan.tokens.push_back((r.row * 977 + r.done_in + i) * 131 % known_tokens());
          r.done_in += n;
          const bool sample = r.done_in == in;
          plan.work.push_back({r.row, n, false, sample});
          if (sample) r.done_out = 1;
          budget -= n;
        };
        for (Running& r : running)
          if (r.done_in < in) chunk(r);
        while (budget > 0 && fits()) {
          const int32_t row = free_rows.back();
          free_rows.pop_back();
          promised += per_request;
          --waiting;
          plan.opened.push_back({row, in, sampling(row), {}, {}});
          running.push_back({row, 0, 0, {}});
          chunk(running.back());
        }
        // A row that has all its tokens is closed by the next plan; its slots are free for it too,
        // as steps run in order.
        std::erase_if(running, [&](Running& r) {
          if (r.done_out < out) return false;
          closed.push_back(r.row);
          free_rows.push_back(r.row);
          free_.insert(free_.end(), r.slots.begin(), r.slots.end());
          promised -= per_request;
          return true;
        });
        executor_.enqueue(plan);
        ++in_flight;
        ++steps;
      }
      const StepResult result = executor_.collect();
      --in_flight;
      produced += static_cast<int64_t>(result.sampled.size());
      total_us_.push_back(result.timings.compute_us + result.timings.idle_us);
      idle_us_.push_back(result.timings.idle_us);
    }
    const double took = seconds_since(start);
    executor_.reset();
    std::printf(
        "{\"bench\":\"saturate\",%s,\"requests\":%d,\"in\":%d,\"out\":%d,\"max_rows\":%d,"
        "\"prefill_first\":%s,\"step_tokens\":%d,\"kv_tokens\":%d,\"steps\":%lld,\"seconds\":%.3f,"
        "\"output_tokens_per_s\":%.1f,\"total_tokens_per_s\":%.1f,\"idle_us_median\":%.0f,"
        "\"idle_s\":%.3f}\n",
        head().c_str(), requests, in, out, options_.executor.max_rows,
        options_.prefill_first ? "true" : "false", options_.executor.max_step_tokens,
        executor_.n_slots(), static_cast<long long>(steps), took,
        static_cast<double>(produced) / took,
        (static_cast<double>(produced) + static_cast<double>(requests) * in) / took,
        median(idle_us_, 1), std::accumulate(idle_us_.begin() + 1, idle_us_.end(), 0.0) * 1e-6);
    std::fflush(stdout);
  }

 private:
  StepPlan begin() {
    StepPlan plan;
    plan.epoch = 1;
    plan.step = ++step_;
    return plan;
  }

  static SamplingParams sampling(int32_t /*row*/) {
    SamplingParams p;
    p.temperature = 0.0F;
    return p;
  }

  std::vector<int32_t> take(size_t n) {
    std::vector<int32_t> out(free_.end() - static_cast<std::ptrdiff_t>(n), free_.end());
    free_.resize(free_.size() - n);
    return out;
  }

  void run(const std::vector<StepPlan>& plans) {
    total_us_.clear();
    idle_us_.clear();
    compute_us_.clear();
    n_tokens_ = n_sampled_ = 0;
    size_t collected = 0;
    for (size_t i = 0; i < plans.size() || collected < plans.size();) {
      if (i < plans.size() && i - collected < Executor::kMaxEnqueued) {
        n_tokens_ += static_cast<int64_t>(plans[i].slots.size());
        executor_.enqueue(plans[i++]);
        continue;
      }
      const StepResult result = executor_.collect();
      compute_us_.push_back(result.timings.compute_us);
      idle_us_.push_back(result.timings.idle_us);
      total_us_.push_back(result.timings.compute_us + result.timings.idle_us);
      n_sampled_ += static_cast<int64_t>(result.sampled.size());
      for (const SampledToken& t : result.sampled) n_failed_ += t.failed ? 1 : 0;
      ++collected;
    }
  }

  static double median(std::vector<double> v, size_t skip) {
    v.erase(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(std::min(skip, v.size() - 1)));
    std::sort(v.begin(), v.end());
    return v[v.size() / 2];
  }

  /// Those that this rank has embeddings of where the others are left out.
  [[nodiscard]] int32_t known_tokens() const { return config_.vocab / options_.variant.share_of; }

  // One rank's share throughout.
  [[nodiscard]] double share() const { return 1.0 / options_.tp; }
  [[nodiscard]] double layer_parameters() const {
    const double h = config_.hidden;
    const double q = config_.n_heads * config_.head_dim;
    const double kv = config_.n_kv_heads * config_.head_dim;
    return config_.n_layers * (h * (q + 2 * kv) + q * h + 3 * h * config_.ffn) * share();
  }
  [[nodiscard]] double head_parameters() const {
    return static_cast<double>(config_.vocab) * config_.hidden * share();
  }
  [[nodiscard]] double head_flops() const { return 2 * head_parameters(); }
  [[nodiscard]] double flops_per_token() const { return 2 * layer_parameters() + head_flops(); }
  [[nodiscard]] double attention_flops(double context) const {
    return 4.0 * config_.n_layers * config_.n_heads * config_.head_dim * context * share();
  }
  [[nodiscard]] double weight_bytes() const {
    return layer_parameters() * (options_.executor.fp8_weights ? 1 : 2) + head_parameters() * 2;
  }
  [[nodiscard]] double slot_bytes() const {
    return 2.0 * config_.n_layers * config_.n_kv_heads * config_.head_dim * share() *
           (options_.executor.fp8_kv ? 1 : 2);
  }
  [[nodiscard]] double seconds(double flops, int32_t /*rows*/) const {
    return flops / (options_.executor.fp8_weights ? limits_.fp8 : limits_.bf16);
  }

  [[nodiscard]] std::string head() const {
    std::ostringstream out;
    out << "\"model\":\"" << config_.name << "\",\"weights\":\""
        << (options_.executor.fp8_weights ? "fp8" : "bf16") << "\",\"kv\":\""
        << (options_.executor.fp8_kv ? "fp8" : "bf16") << "\",\"tp\":" << options_.tp
        << ",\"collectives\":" << (options_.variant.share_of == options_.tp ? "false" : "true");
    return out.str();
  }

  void report(int32_t rows, int32_t context, int32_t prefill, double bytes, double compute_s,
              double us) {
    const double floor_ms = std::max(bytes / limits_.bandwidth, compute_s) * 1e3;
    std::printf(
        "{\"bench\":\"step\",%s,\"rows\":%d,\"context\":%d,\"prefill_tokens\":%d,\"ms\":%.3f,"
        "\"floor_ms\":%.3f,\"percent_of_floor\":%.1f,\"gb\":%.2f,\"idle_us\":%.0f,"
        "\"failed\":%d}\n",
        head().c_str(), rows, context, prefill, us * 1e-3, floor_ms, floor_ms / (us * 1e-3) * 100,
        bytes * 1e-9, median(idle_us_, idle_us_.size() > 5 ? 5 : 0), n_failed_);
    std::fflush(stdout);
  }

  const BenchStepOptions& options_;
  ModelConfig config_;
  Executor& executor_;
  DeviceLimits limits_;
  std::vector<int32_t> free_;
  uint64_t step_ = 0;
  int n_failed_ = 0;
  int64_t n_tokens_ = 0;  // of run()
  int64_t n_sampled_ = 0;
  std::vector<double> total_us_, idle_us_, compute_us_;
};

int run(int argc, char** argv, Communicator& communicator, int32_t device_index,
        const ReadLoads& read) {
  const auto start = Clock::now();
  BenchStepOptions options;
  if (!parse_bench_step(argc, argv, options)) {
    std::fprintf(stderr, "%s\n", kBenchStepUsage);
    return 2;
  }
  const Result<ModelConfig> config = find_bench_model(options.model);
  if (!config) {
    std::fprintf(stderr, "error: %s\n", config.error().message.c_str());
    return 2;
  }
  std::vector<RecordedLoad> loads;
  if (!options.replay.empty()) {
    auto recorded = read ? read(options.replay)
                         : fail(ErrorCode::kInvalidArgument, "only `troupe bench step` replays");
    if (!recorded) {
      std::fprintf(stderr, "error: %s\n", recorded.error().message.c_str());
      return 2;
    }
    loads = std::move(*recorded);
  }
  const ShapeOnly checkpoint(*config);
  options.executor.device_index = device_index;
  options.tp = std::max(communicator.size(), options.variant.share_of);
  // One rank prints; a failure shows on standard error.
  if (communicator.rank() != 0 && std::freopen("/dev/null", "w", stdout) == nullptr) return 2;
  auto made = cuda::make_executor(checkpoint, options.executor, communicator, options.variant);
  if (!made) {
    std::fprintf(stderr, "error: %s\n", made.error().message.c_str());
    return 2;
  }
  cudaDeviceProp device = {};
  TROUPE_CUDA(cudaGetDeviceProperties(&device, device_index));
  const std::string name = device.name;
  const DeviceLimits limits = DeviceLimits::of(name);
  const Executor::Memory memory = (*made)->memory();
  std::printf(
      "{\"bench\":\"start\",\"device\":\"%s\",\"model\":\"%s\",\"seconds\":%.2f,"
      "\"weights_mb\":%.0f,\"kv_mb\":%.0f,\"workspace_mb\":%.0f,\"kv_tokens\":%d}\n",
      name.c_str(), config->name.c_str(), seconds_since(start),
      static_cast<double>(memory.weights) * 1e-6, static_cast<double>(memory.kv) * 1e-6,
      static_cast<double>(memory.workspace) * 1e-6, (*made)->n_slots());
  std::fflush(stdout);
  Bench bench(options, *config, **made, limits);
  for (const int32_t context : options.contexts)
    for (const int32_t rows : options.rows) bench.decode(rows, context);
  for (const int32_t n : options.prefill) bench.prefill(n);
  if (!options.saturate.empty())
    bench.saturate(options.saturate[0], options.saturate[1], options.saturate[2]);
  bench.replay(loads);
  return 0;
}

}  // namespace

int bench_step(int argc, char** argv, Communicator& communicator, int32_t device_index,
               const ReadLoads& read) {
  try {
    return run(argc, argv, communicator, device_index, read);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}

}  // namespace troupe
