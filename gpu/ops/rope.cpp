#include "gpu/base/check.h"
#include "gpu/device/stream.h"
#include "gpu/ops/attention.h"
#include "gpu/ops/kernels.h"

#include <array>
#include <cstring>

namespace troupe::cpu {
namespace {

/// Writes one head's K or V to the pool; `what` is 0 for K, 1 for V.
void store(const KvLayer& kv, const Kernels& k, int32_t slot, int32_t head, int what,
           const float* x) {
  const int64_t at = ((static_cast<int64_t>(slot) * kv.n_kv_heads + head) * 2 + what) * kv.head_dim;
  if (kv.dtype == DType::kF16) {
    k.f16_from_floats(static_cast<uint16_t*>(kv.data) + at, x, kv.head_dim);
  } else {
    std::memcpy(static_cast<float*>(kv.data) + at, x,
                static_cast<size_t>(kv.head_dim) * sizeof(float));
  }
}

}  // namespace

void rope_and_store_kv(float* qkv, const KvLayer& kv, const QkvShape& shape, const RopeTable& rope,
                       const float* q_norm, const float* k_norm, float eps,
                       std::span<const int32_t> positions, std::span<const int32_t> slots,
                       Stream& stream) {
  const int32_t dim = shape.head_dim;
  TROUPE_CHECK(dim % 8 == 0 && dim <= kMaxHeadDim && kv.head_dim == dim) << dim;
  TROUPE_CHECK(rope.rotary_dim % 2 == 0 && rope.rotary_dim <= dim) << rope.rotary_dim;
  TROUPE_CHECK(rope.inverse_frequency.size() * 2 >= static_cast<size_t>(rope.rotary_dim));
  TROUPE_CHECK(kv.dtype == DType::kF16 || kv.dtype == DType::kF32) << to_string(kv.dtype);
  TROUPE_CHECK(positions.size() == slots.size()) << positions.size() << ' ' << slots.size();
  const Kernels& k = kernels(stream.isa());
  const int64_t stride = static_cast<int64_t>(shape.n_heads + 2 * shape.n_kv_heads) * dim;
  const auto body = [&](int64_t begin, int64_t end, int32_t) {
    std::array<float, kMaxHeadDim / 2> cos;
    std::array<float, kMaxHeadDim / 2> sin;
    for (int64_t t = begin; t < end; ++t) {
      const auto token = static_cast<size_t>(t);
      k.rope_angles(cos.data(), sin.data(), rope.inverse_frequency.data(), rope.rotary_dim / 2,
                    rope.magnitude, positions[token]);
      float* head = qkv + t * stride;
      for (int32_t h = 0; h < shape.n_heads + shape.n_kv_heads; ++h, head += dim) {
        const bool is_query = h < shape.n_heads;
        const float* norm = is_query ? q_norm : k_norm;
        if (norm != nullptr) k.rms_norm(head, nullptr, head, nullptr, norm, dim, eps);
        k.rope(head, cos.data(), sin.data(), rope.rotary_dim, rope.interleaved);
        if (!is_query) store(kv, k, slots[token], h - shape.n_heads, 0, head);
      }
      for (int32_t h = 0; h < shape.n_kv_heads; ++h, head += dim)
        store(kv, k, slots[token], h, 1, head);
    }
  };
  stream.parallel_for(static_cast<int64_t>(positions.size()), 8, body);
}

}  // namespace troupe::cpu
