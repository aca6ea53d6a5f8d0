#include "gpu/cuda/linear.h"

#include "gpu/base/check.h"
#include "gpu/cuda/device.h"
#include "gpu/cuda/graph_timer.h"
#include "gpu/cuda/linear_lt.h"
#include "gpu/cuda/linear_stream.h"
#include "gpu/cuda/linear_table.h"
#include "gpu/cuda/quantize.h"

#include <algorithm>
#include <map>
#include <optional>
#include <variant>
#include <vector>

namespace troupe::cuda {
namespace {

// With more tokens the own kernels are not even tried.
constexpr int32_t kMostTokensTried = 256;
constexpr int32_t kLtCandidates = 8;
constexpr int32_t kStreamCandidates = 16;
// A later candidate must be better by this much.
constexpr double kClearly = 0.98;
constexpr int64_t kBeyondCache = int64_t{160} << 20;

/// Worth a try: no second pass over the weights, no tile half empty.
bool is_fitting(const StreamPlan& plan, int32_t n_tokens) {
  const int32_t width = plan.kernel->tokens;
  return n_tokens <= width ? width <= 16 || width < 2 * n_tokens : width >= 64;
}

using Kernel = std::variant<StreamPlan, LtPlan>;

}  // namespace

struct Linear::Impl {
  explicit Impl(size_t workspace_bytes) : workspace(workspace_bytes) {}

  [[nodiscard]] std::span<std::byte> space() const { return {workspace.data(), workspace.size()}; }
  void multiply(const GemmShape& shape, const GemmCall& call, cudaStream_t stream);
  void launch(const Kernel& kernel, const GemmShape& shape, const GemmCall& call,
              cudaStream_t stream);
  [[nodiscard]] Kernel choose(const GemmShape& shape) const;
  [[nodiscard]] std::optional<StreamPlan> usual(const GemmShape& shape) const;
  [[nodiscard]] std::vector<Kernel> candidates(const GemmShape& shape) const;
  /// Null when this build or library does not have it.
  [[nodiscard]] std::optional<Kernel> restore(const GemmShape& shape, const TunedKernel& t) const;

  DeviceBuffer<std::byte> workspace;
  LtGemm lt;
  StreamGemm stream_gemm;
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
  const auto plans = lt.plan(shape, workspace.size(), std::get<cublasLtMatmulAlgo_t>(t.kernel));
  if (plans.empty()) return std::nullopt;
  return plans.front();
}

Kernel Linear::Impl::choose(const GemmShape& shape) const {
  if (const auto it = table.find(shape); it != table.end()) {
    if (const auto kernel = restore(shape, it->second)) return *kernel;
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
  if (shape.n_tokens > kMostTokensTried && !out.empty()) return out;
  int32_t tried = 0;
  for (const StreamPlan& plan : stream_gemm.plans(shape)) {
    if (!is_fitting(plan, shape.n_tokens)) continue;
    out.push_back(plan);
    if (++tried == kStreamCandidates) break;
  }
  return out;
}

/// The evenest cut with the fewest passes over the weights.
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

void Linear::tune(const Weight& w, int32_t n_tokens, cudaStream_t stream) {
  Impl& impl = *impl_;
  const GemmShape shape = {w.rows, w.cols, n_tokens, w.format, false};
  if (n_tokens == 0 || w.rows == 0 || w.cols == 0) return;
  if (const auto it = impl.table.find(shape);
      it != impl.table.end() && impl.restore(shape, it->second)) {
    return;
  }
  TROUPE_CUDA(cudaStreamSynchronize(stream));  // the workspace is in use until then
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
  DeviceBuffer<__nv_bfloat16> out(static_cast<size_t>(n_tokens * w.rows));
  fill_normal(x.data(), n_tokens * w.cols, 1.0F, 1, stream);
  const bool fp8 = w.format == WeightFormat::kFp8;
  if (fp8) {
    quantize_rows(codes.data(), scale.data(), x.data(), n_tokens, static_cast<int32_t>(w.cols),
                  stream);
  }
  TROUPE_CUDA(cudaStreamSynchronize(stream));

  double best = 0.0;
  for (const Kernel& kernel : impl.candidates(shape)) {
    const double us = time_in_graph(
        [&](int32_t i, cudaStream_t s) {
          const void* data =
              copies > 1 ? weights.data() + static_cast<size_t>(i % copies) * stride : w.data;
          const void* in = fp8 ? static_cast<const void*>(codes.data()) : x.data();
          impl.launch(kernel, shape, {out.data(), data, in}, s);
        },
        static_cast<int32_t>(std::clamp<int64_t>(2 * copies, 8, 200)));
    if (best > 0.0 && us > best * kClearly) continue;
    best = us;
    TunedKernel& entry = impl.table[shape];
    entry.us = us;
    if (const auto* own = std::get_if<StreamPlan>(&kernel)) {
      entry.kernel = own->cut;
    } else {
      entry.kernel = std::get<LtPlan>(kernel).algorithm;
    }
    impl.chosen.insert_or_assign(shape, kernel);
  }
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
