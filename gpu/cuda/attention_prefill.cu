#include "gpu/cuda/attention_simple.h"
#include "gpu/cuda/device.h"

#include <vector>

namespace troupe::cuda {

struct PrefillAttention::Impl {
  AttentionShape shape;
  DeviceBuffer<int32_t> lists;  // token, row, context
  TokenList tokens;
};

PrefillAttention::PrefillAttention(const AttentionShape& shape, KvFormat /*format*/,
                                   int32_t max_step_tokens, int32_t /*max_context*/)
    : impl_(std::make_unique<Impl>()) {
  impl_->shape = shape;
  impl_->lists = DeviceBuffer<int32_t>(size_t{3} * static_cast<size_t>(max_step_tokens));
}
PrefillAttention::~PrefillAttention() = default;

void PrefillAttention::plan(std::span<const Chunk> chunks, const SlotTable& slots,
                            cudaStream_t stream) {
  std::vector<int32_t> token;
  std::vector<int32_t> row;
  std::vector<int32_t> context;
  for (const Chunk& c : chunks) {
    for (int32_t i = 0; i < c.n_tokens; ++i) {
      token.push_back(c.token_begin + i);
      row.push_back(c.row);
      context.push_back(c.context - c.n_tokens + i + 1);
    }
  }
  const size_t n = token.size();
  int32_t* at = impl_->lists.data();
  for (const auto* list : {&token, &row, &context}) {
    TROUPE_CUDA(
        cudaMemcpyAsync(at, list->data(), n * sizeof(int32_t), cudaMemcpyHostToDevice, stream));
    at += n;
  }
  at = impl_->lists.data();
  impl_->tokens = {static_cast<int32_t>(n), at, at + n, at + 2 * n, slots};
}

void PrefillAttention::run(__nv_bfloat16* out, const __nv_bfloat16* q, const KvLayer& kv,
                           float scale, int32_t window, cudaStream_t stream) {
  simple_attention(out, q, kv, impl_->shape, impl_->tokens, scale, window, stream);
}

size_t PrefillAttention::workspace_bytes() const { return impl_->lists.bytes(); }

}  // namespace troupe::cuda
