#include "gpu/cuda/attention_simple.h"

namespace troupe::cuda {

struct DecodeAttention::Impl {
  AttentionShape shape;
};

DecodeAttention::DecodeAttention(const AttentionShape& shape, KvFormat /*format*/,
                                 const Options& /*options*/)
    : impl_(std::make_unique<Impl>()) {
  impl_->shape = shape;
}
DecodeAttention::~DecodeAttention() = default;

void DecodeAttention::plan(const DecodeBatch& /*batch*/, cudaStream_t /*stream*/,
                           int32_t /*window*/) {}

void DecodeAttention::run(__nv_bfloat16* out, const __nv_bfloat16* q, const KvLayer& kv,
                          const DecodeBatch& batch, float scale, int32_t window,
                          cudaStream_t stream) {
  simple_attention(out, q, kv, impl_->shape,
                   {batch.n_rows, nullptr, batch.row, batch.context, batch.slots}, scale, window,
                   stream);
}

size_t DecodeAttention::workspace_bytes() const { return 0; }

}  // namespace troupe::cuda
