#include "gpu/cuda/linear.h"

#include "gpu/base/check.h"
#include "gpu/cuda/device.h"
#include "gpu/cuda/linear_lt.h"

#include <map>
#include <vector>

namespace troupe::cuda {

struct Linear::Impl {
  explicit Impl(size_t workspace_bytes) : workspace(workspace_bytes) {}

  [[nodiscard]] std::span<std::byte> space() const { return {workspace.data(), workspace.size()}; }
  void multiply(const GemmShape& shape, const GemmCall& call, cudaStream_t stream);

  DeviceBuffer<std::byte> workspace;
  LtGemm lt;
  std::map<GemmShape, LtPlan> choices;
};

void Linear::Impl::multiply(const GemmShape& shape, const GemmCall& call, cudaStream_t stream) {
  if (shape.n_tokens == 0 || shape.rows == 0) return;
  if (shape.cols == 0) {  // a rank without a share of this layer
    const size_t out_bytes = static_cast<size_t>(shape.rows) * static_cast<size_t>(shape.n_tokens) *
                             (shape.f32_out ? 4 : 2);
    TROUPE_CUDA(cudaMemsetAsync(call.out, 0, out_bytes, stream));
    return;
  }
  auto it = choices.find(shape);
  if (it == choices.end()) {
    const std::vector<LtPlan> plans = lt.plans(shape, workspace.size(), 1);
    if (plans.empty()) throw DeviceError("no kernel for this shape");
    it = choices.emplace(shape, plans.front()).first;
  }
  lt.run(it->second, call, space(), stream);
}

Linear::Linear(size_t workspace_bytes) : impl_(std::make_unique<Impl>(workspace_bytes)) {}
Linear::~Linear() = default;

void Linear::load_table(const std::string& /*path*/) {}
void Linear::save_table(const std::string& /*path*/) const {}
void Linear::tune(const Weight& /*w*/, int32_t /*n_tokens*/, cudaStream_t /*stream*/) {}

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
