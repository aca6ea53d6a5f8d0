#include "gpu/cuda/linear.h"

#include "gpu/base/check.h"
#include "gpu/cuda/device.h"
#include "gpu/cuda/graph_timer.h"
#include "gpu/cuda/linear_lt.h"
#include "gpu/cuda/linear_stream.h"
#include "gpu/cuda/linear_table.h"
#include "gpu/cuda/linear_wide.h"
#include "gpu/cuda/quantize.h"

#include <algorithm>
#include <map>
#include <optional>
#include <variant>
#include <vector>

namespace troupe::cuda {
namespace {

constexpr int32_t kLtCandidates = 8;
constexpr int32_t kReplays = 5;
// Steps of more tokens than this have any size; those of decode alone were tuned as they are.
constexpr int32_t kMostDecodeTokens = 256;
// From here on the best of a short race go into a long one: multiplies of many tokens hold the card
// at its power limit, where the kernel that needs the least energy is the fastest.
constexpr int32_t kFewestInFinal = 65;
constexpr size_t kFinalists = 3;
constexpr double kFinalUs = 10000.0;  // of a launch's time, times the launches of a replay: long
                                      // enough for the clock to follow the load
constexpr int64_t kBeyondCache = int64_t{160} << 20;

/// The narrowest own kernel that takes all tokens at once.
bool is_fitting(const StreamPlan& plan, int32_t n_tokens) {
  const int32_t width = plan.kernel->tokens;
  return n_tokens <= width && (width == 8 || n_tokens > width / 2);
}

using Kernel = std::variant<StreamPlan, WideVariant, LtPlan>;

}  // namespace

struct Linear::Impl {
  explicit Impl(size_t workspace_bytes) : workspace(workspace_bytes) {}

  [[nodiscard]] std::span<std::byte> space() const { return {workspace.data(), workspace.size()}; }
  void multiply(const GemmShape& shape, const GemmCall& call, cudaStream_t stream);
  [[nodiscard]] bool is_tuned(const GemmShape& shape) const;
  void launch(const Kernel& kernel, const GemmShape& shape, const GemmCall& call,
              cudaStream_t stream);
  [[nodiscard]] Kernel choose(const GemmShape& shape) const;
  /// What was tuned for the next larger number of tokens, up to twice, or else the next smaller
  /// one: for prefill, whose steps have any size.
  [[nodiscard]] std::optional<Kernel> of_neighbour(const GemmShape& shape) const;
  [[nodiscard]] std::optional<StreamPlan> usual(const GemmShape& shape) const;
  [[nodiscard]] std::vector<Kernel> candidates(const GemmShape& shape) const;
  /// Null when this build or library does not have it.
  [[nodiscard]] std::optional<Kernel> restore(const GemmShape& shape, const TunedKernel& t) const;

  DeviceBuffer<std::byte> workspace;
  LtGemm lt;
  StreamGemm stream_gemm;
  WideGemm wide_gemm;
  TuneTable table;
  std::map<GemmShape, Kernel> chosen;
};

std::optional<Kernel> Linear::Impl::restore(const GemmShape& shape, const TunedKernel& t) const {
  if (const auto* variant = std::get_if<StreamVariant>(&t.kernel)) {
    for (const StreamPlan& plan : stream_gemm.plans(shape)) {
      if (plan.cut == *variant) return plan;
    }
    return std::nullopt;
  }
  if (const auto* variant = std::get_if<WideVariant>(&t.kernel)) {
    const std::vector<WideVariant> plans = wide_gemm.plans(shape, workspace.size());
    if (std::find(plans.begin(), plans.end(), *variant) == plans.end()) return std::nullopt;
    return *variant;
  }
  const auto plans = lt.plan(shape, workspace.size(), std::get<cublasLtMatmulAlgo_t>(t.kernel));
  if (plans.empty()) return std::nullopt;
  return plans.front();
}

std::optional<Kernel> Linear::Impl::of_neighbour(const GemmShape& shape) const {
  const TunedKernel* best = nullptr;
  for (const auto& [tuned, kernel] : table) {
    GemmShape same = tuned;
    same.n_tokens = shape.n_tokens;
    if (same != shape || 2 * tuned.n_tokens < shape.n_tokens || tuned.n_tokens > 2 * shape.n_tokens)
      continue;
    best = &kernel;  // in the order of n_tokens
    if (tuned.n_tokens >= shape.n_tokens) break;
  }
  return best != nullptr ? restore(shape, *best) : std::nullopt;
}

Kernel Linear::Impl::choose(const GemmShape& shape) const {
  if (const auto it = table.find(shape); it != table.end()) {
    if (const auto kernel = restore(shape, it->second)) return *kernel;
  }
  if (shape.n_tokens > kMostDecodeTokens) {
    if (const auto kernel = of_neighbour(shape)) return *kernel;
  }
  // Untimed, the library's guess is the safer one: a cut of the own kernel that is a little off
  // costs more.
  const std::vector<LtPlan> plans = lt.plans(shape, workspace.size(), 1);
  if (!plans.empty()) return plans.front();
  if (const std::optional<StreamPlan> own = usual(shape)) return *own;
  throw DeviceError("no kernel multiplies " + std::to_string(shape.n_tokens) + " tokens by " +
                    std::to_string(shape.rows) + " x " + std::to_string(shape.cols) +
                    " weights on this device");
}

std::vector<Kernel> Linear::Impl::candidates(const GemmShape& shape) const {
  std::vector<Kernel> out;
  for (const LtPlan& plan : lt.plans(shape, workspace.size(), kLtCandidates)) out.push_back(plan);
  for (const StreamPlan& plan : stream_gemm.plans(shape)) {
    if (is_fitting(plan, shape.n_tokens)) out.push_back(plan);
  }
  if (shape.n_tokens <= kMostDecodeTokens) {
    for (const WideVariant& plan : wide_gemm.plans(shape, workspace.size())) out.push_back(plan);
  }
  return out;
}

/// The one with the fewest passes over the weights.
std::optional<StreamPlan> Linear::Impl::usual(const GemmShape& shape) const {
  std::optional<StreamPlan> best;
  const auto passes = [&](const StreamPlan& p) {
    return (shape.n_tokens + p.kernel->tokens - 1) / p.kernel->tokens;
  };
  for (const StreamPlan& plan : stream_gemm.plans(shape)) {
    if (!best || passes(plan) < passes(*best) ||
        (passes(plan) == passes(*best) && plan.kernel->tokens < best->kernel->tokens)) {
      best = plan;
    }
  }
  return best;
}

void Linear::Impl::launch(const Kernel& kernel, const GemmShape& shape, const GemmCall& call,
                          cudaStream_t stream) {
  if (const auto* own = std::get_if<StreamPlan>(&kernel)) {
    stream_gemm.run(*own, shape, call, stream);
  } else if (const auto* wide = std::get_if<WideVariant>(&kernel)) {
    wide_gemm.run(*wide, shape, call, space(), stream);
  } else {
    lt.run(std::get<LtPlan>(kernel), call, space(), stream);
  }
}

void Linear::Impl::multiply(const GemmShape& shape, const GemmCall& call, cudaStream_t stream) {
  if (shape.n_tokens == 0 || shape.rows == 0) return;
  if (shape.cols == 0) {  // a rank without a share of this layer
    const size_t out_bytes = static_cast<size_t>(shape.rows) * static_cast<size_t>(shape.n_tokens) *
                             (shape.f32_out ? 4 : 2);
    TROUPE_CUDA(cudaMemsetAsync(call.out, 0, out_bytes, stream));
    return;
  }
  auto it = chosen.find(shape);
  if (it == chosen.end()) it = chosen.emplace(shape, choose(shape)).first;
  launch(it->second, shape, call, stream);
}

Linear::Linear(size_t workspace_bytes) : impl_(std::make_unique<Impl>(workspace_bytes)) {}
Linear::~Linear() = default;

void Linear::load_table(const std::string& path) {
  impl_->table.merge(read_tune_table(path, TuneKey::of_current_device()));
  impl_->chosen.clear();
}

void Linear::load_shipped_table() {
  impl_->table.merge(shipped_tune_table(TuneKey::of_current_device()));
  impl_->chosen.clear();
}

void Linear::save_table(const std::string& path) const {
  write_tune_table(path, TuneKey::of_current_device(), impl_->table);
}

bool Linear::Impl::is_tuned(const GemmShape& shape) const {
  if (shape.n_tokens == 0 || shape.rows == 0 || shape.cols == 0) return true;
  const auto it = table.find(shape);
  return it != table.end() && restore(shape, it->second);
}

void Linear::tune(const Weight& w, int32_t n_tokens, bool f32_out,
                  const std::function<double(int32_t)>& time) {
  Impl& impl = *impl_;
  const GemmShape shape = {w.rows, w.cols, n_tokens, w.format, f32_out};
  if (impl.is_tuned(shape)) return;
  const auto time_kernel = [&](const Kernel& kernel, int32_t replays) {
    impl.chosen.insert_or_assign(shape, kernel);
    return time(replays);
  };
  std::vector<std::pair<double, Kernel>> timed;
  for (const Kernel& kernel : impl.candidates(shape))
    timed.emplace_back(time_kernel(kernel, kReplays), kernel);
  if (timed.empty()) return;
  const auto by_time = [](const auto& a, const auto& b) { return a.first < b.first; };
  std::stable_sort(timed.begin(), timed.end(), by_time);
  if (n_tokens >= kFewestInFinal) {
    timed.resize(std::min(timed.size(), kFinalists));
    for (auto& [us, kernel] : timed)
      us = time_kernel(kernel, static_cast<int32_t>(kFinalUs / us) + 1);
    std::stable_sort(timed.begin(), timed.end(), by_time);
  }
  const auto& [us, best] = timed.front();
  impl.chosen.insert_or_assign(shape, best);
  TunedKernel entry;
  entry.us = us;
  if (const auto* own = std::get_if<StreamPlan>(&best)) {
    entry.kernel = own->cut;
  } else if (const auto* wide = std::get_if<WideVariant>(&best)) {
    entry.kernel = *wide;
  } else {
    entry.kernel = std::get<LtPlan>(best).algorithm;
  }
  impl.table.insert_or_assign(shape, entry);
}

void Linear::tune_alone(const Weight& w, int32_t n_tokens, bool f32_out, cudaStream_t stream) {
  if (impl_->is_tuned({w.rows, w.cols, n_tokens, w.format, f32_out})) return;
  const int64_t bytes = w.rows * w.cols * element_bytes(w.format);
  const int64_t copies = (kBeyondCache + bytes - 1) / bytes;
  const size_t stride = static_cast<size_t>((bytes + 255) / 256 * 256);
  DeviceBuffer<std::byte> weights(copies > 1 ? static_cast<size_t>(copies) * stride : 0);
  for (int64_t i = 0; i < copies && copies > 1; ++i) {
    TROUPE_CUDA(cudaMemcpyAsync(weights.data() + static_cast<size_t>(i) * stride, w.data,
                                static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream));
  }
  DeviceBuffer<__nv_bfloat16> x(static_cast<size_t>(n_tokens * w.cols));
  DeviceBuffer<uint8_t> codes(x.size());
  DeviceBuffer<float> scale(static_cast<size_t>(n_tokens));
  DeviceBuffer<std::byte> out(static_cast<size_t>(n_tokens * w.rows) * (f32_out ? 4 : 2));
  fill_normal(x.data(), n_tokens * w.cols, 1.0F, 1, stream);
  const bool fp8 = w.format == WeightFormat::kFp8;
  if (fp8) {
    quantize_rows(codes.data(), scale.data(), x.data(), n_tokens, static_cast<int32_t>(w.cols),
                  stream);
  }
  TROUPE_CUDA(cudaStreamSynchronize(stream));  // the workspace is free now, too

  const Activation in = {fp8 ? static_cast<const void*>(codes.data()) : x.data(), scale.data()};
  const auto launches = static_cast<int32_t>(std::clamp<int64_t>(2 * copies, 3, 200));
  tune(w, n_tokens, f32_out, [&](int32_t replays) {
    return time_in_graph(
        [&](int32_t i, cudaStream_t s) {
          Weight copy = w;
          if (copies > 1) copy.data = weights.data() + static_cast<size_t>(i % copies) * stride;
          if (f32_out) {
            run_f32(reinterpret_cast<float*>(out.data()), copy, in, n_tokens, s);
          } else {
            run(reinterpret_cast<__nv_bfloat16*>(out.data()), copy, in, n_tokens, s);
          }
        },
        launches, replays);
  });
}

Product Linear::run(__nv_bfloat16* out, const Weight& w, const Activation& x, int32_t n_tokens,
                    cudaStream_t stream) {
  impl_->multiply({w.rows, w.cols, n_tokens, w.format, false}, {out, w.data, x.data}, stream);
  return {out, x.token_scale, w.channel_scale};
}

void Linear::run_f32(float* out, const Weight& w, const Activation& x, int32_t n_tokens,
                     cudaStream_t stream) {
  TROUPE_CHECK(w.format == WeightFormat::kBf16);
  impl_->multiply({w.rows, w.cols, n_tokens, w.format, true}, {out, w.data, x.data}, stream);
}

}  // namespace troupe::cuda
