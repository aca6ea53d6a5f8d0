#include "gpu/cuda/linear_lt.h"

#include "gpu/base/check.h"

#include <string>

namespace troupe::cuda {
namespace {

void check_lt(cublasStatus_t status, const char* call, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceError(std::string(call) + " failed: " + cublasLtGetStatusString(status) + " (" +
                    __FILE__ + ":" + std::to_string(line) + ")");
}
#define TROUPE_LT(call) check_lt((call), #call, __LINE__)

constexpr uint32_t kPointerAlignment = 16;

/// cuBLASLt is column-major: row-major w [rows, cols] is its transpose [cols, rows], so
/// out^T [rows, tokens] = (w^T)^T * x^T, the "TN" form that fp8 asks for.
LtPlan describe(const GemmShape& s) {
  LtPlan plan = {};
  const bool fp8 = s.format == WeightFormat::kFp8;
  const cudaDataType_t in = fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
  const cudaDataType_t out = s.f32_out ? CUDA_R_32F : CUDA_R_16BF;
  TROUPE_LT(cublasLtMatmulDescInit(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  const cublasOperation_t transpose = CUBLAS_OP_T;
  TROUPE_LT(cublasLtMatmulDescSetAttribute(&plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                           sizeof transpose));
  if (fp8) {
    // The tensor cores' own accumulation; promoting to fp32 on the way costs a third of the speed.
    const int8_t fast = 1;
    TROUPE_LT(cublasLtMatmulDescSetAttribute(&plan.operation, CUBLASLT_MATMUL_DESC_FAST_ACCUM,
                                             &fast, sizeof fast));
  }
  const auto rows = static_cast<uint64_t>(s.rows);
  const auto cols = static_cast<uint64_t>(s.cols);
  const auto tokens = static_cast<uint64_t>(s.n_tokens);
  TROUPE_LT(cublasLtMatrixLayoutInit(&plan.weights, in, cols, rows, s.cols));
  TROUPE_LT(cublasLtMatrixLayoutInit(&plan.tokens, in, cols, tokens, s.cols));
  TROUPE_LT(cublasLtMatrixLayoutInit(&plan.out, out, rows, tokens, s.rows));
  return plan;
}

class Preference {
 public:
  explicit Preference(size_t workspace_bytes) {
    TROUPE_LT(cublasLtMatmulPreferenceInit(&preference_));
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{workspace_bytes});
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      set(attribute, kPointerAlignment);
    }
  }
  cublasLtMatmulPreference_t get() { return &preference_; }

 private:
  template <class T>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    TROUPE_LT(cublasLtMatmulPreferenceSetAttribute(&preference_, attribute, &value, sizeof value));
  }
  cublasLtMatmulPreferenceOpaque_t preference_;
};

}  // namespace

LtGemm::LtGemm() { TROUPE_LT(cublasLtCreate(&handle_)); }

LtGemm::~LtGemm() { cublasLtDestroy(handle_); }

std::vector<LtPlan> LtGemm::plans(const GemmShape& shape, size_t workspace_bytes,
                                  int32_t most) const {
  LtPlan plan = describe(shape);
  Preference preference(workspace_bytes);
  std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<size_t>(most));
  int n = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_, &plan.operation, &plan.weights, &plan.tokens, &plan.out, &plan.out, preference.get(),
      most, found.data(), &n);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return {};
  TROUPE_LT(status);
  std::vector<LtPlan> plans;
  for (int i = 0; i < n; ++i) {
    const auto& result = found[static_cast<size_t>(i)];
    if (result.state != CUBLAS_STATUS_SUCCESS) continue;
    plan.algorithm = result.algo;
    plans.push_back(plan);
  }
  return plans;
}

std::vector<LtPlan> LtGemm::plan(const GemmShape& shape, size_t workspace_bytes,
                                 const cublasLtMatmulAlgo_t& algorithm) const {
  LtPlan plan = describe(shape);
  plan.algorithm = algorithm;
  cublasLtMatmulHeuristicResult_t result = {};
  const cublasStatus_t status =
      cublasLtMatmulAlgoCheck(handle_, &plan.operation, &plan.weights, &plan.tokens, &plan.out,
                              &plan.out, &plan.algorithm, &result);
  if (status != CUBLAS_STATUS_SUCCESS || result.workspaceSize > workspace_bytes) return {};
  return {plan};
}

void LtGemm::run(const LtPlan& plan, const GemmCall& call, std::span<std::byte> workspace,
                 cudaStream_t stream) const {
  const float one = 1.0F;
  const float zero = 0.0F;
  // The opaque structs are the library's handles by pointer; it does not write to them.
  auto* operation = const_cast<cublasLtMatmulDescOpaque_t*>(&plan.operation);
  auto* weights = const_cast<cublasLtMatrixLayoutOpaque_t*>(&plan.weights);
  auto* tokens = const_cast<cublasLtMatrixLayoutOpaque_t*>(&plan.tokens);
  auto* out = const_cast<cublasLtMatrixLayoutOpaque_t*>(&plan.out);
  TROUPE_LT(cublasLtMatmul(handle_, operation, &one, call.w, weights, call.x, tokens, &zero,
                           call.out, out, call.out, out, &plan.algorithm, workspace.data(),
                           workspace.size(), stream));
}

}  // namespace troupe::cuda
