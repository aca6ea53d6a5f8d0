#pragma once

#include "gpu/base/dtype.h"

#include <cstdint>
#include <span>

namespace troupe {

class Stream;

/// One layer's slice of the KV pool: [slot][kv_head][K | V][head_dim], kF16 or kF32, this rank's
/// KV heads only. Slot lists are arbitrary: no contiguity, no pages.
struct KvLayer {
  void* data = nullptr;
  DType dtype = DType::kF16;
  int32_t n_kv_heads = 0;
  int32_t head_dim = 0;
};

/// The tokens of one step, grouped by row. A row's last token sees all of its `context` positions,
/// the one before it one less, and so on (causal).
struct AttentionRow {
  int32_t token_begin = 0;         // first token of this row in the step's token arrays
  int32_t n_tokens = 0;            // tokens computed in this step
  int32_t context = 0;             // positions including this step's
  const int32_t* slots = nullptr;  // [context] slot of each position
};

/// Rotary embedding as the checkpoint wants it.
struct RopeTable {
  bool interleaved = false;                  // pairs (2i, 2i+1), else (i, i + rotary_dim / 2)
  int32_t rotary_dim = 0;                    // <= head_dim; the rest passes through
  std::span<const float> inverse_frequency;  // [rotary_dim / 2], scaling already applied
  float magnitude = 1.0F;                    // multiplies cos and sin (YaRN), 1 otherwise
};

struct QkvShape {
  int32_t n_heads = 0;     // query heads of this rank
  int32_t n_kv_heads = 0;  // KV heads of this rank
  int32_t head_dim = 0;
};

namespace cpu {

/// In one pass over qkv [n_tokens, (n_heads + 2 n_kv_heads) * head_dim] (q | k | v): optional RMS
/// norm of each q and k head (q_norm, k_norm: [head_dim] or null), rotary embedding of q and k at
/// positions[t], and the write of k and v into slots[t] of the pool. q is left rotated in place.
void rope_and_store_kv(float* qkv, const KvLayer& kv, const QkvShape& shape, const RopeTable& rope,
                       const float* q_norm, const float* k_norm, float eps,
                       std::span<const int32_t> positions, std::span<const int32_t> slots,
                       Stream& stream);

/// out[t, h, :] = softmax(scale * q[t, h, :] . K) V over the positions that token t may see.
/// q is the qkv buffer (row stride (n_heads + 2 n_kv_heads) * head_dim), out is
/// [n_tokens, n_heads * head_dim]. Query head h reads KV head kv_head_of[h] (local indices), a
/// non-decreasing map. Positions before context - window are masked when window > 0.
/// Batch-invariant: bitwise the same for a token in prefill, in decode and beside any neighbours,
/// whatever the slot numbers and the number of threads. Softmax in fp32.
void attention(float* out, const float* qkv, const KvLayer& kv, const QkvShape& shape,
               std::span<const int32_t> kv_head_of, std::span<const AttentionRow> rows, float scale,
               int32_t window, Stream& stream);

}  // namespace cpu
}  // namespace troupe
