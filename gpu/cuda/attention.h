#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace troupe::cuda {

enum class KvFormat : uint8_t { kBf16, kFp8 };  // fp8 is e4m3

/// One layer's slice of the KV pool: [slot][kv_head][K | V][head_dim], this rank's KV heads only.
/// Slot lists are arbitrary. Slot n_slots is a spare one that padding writes to.
struct KvLayer {
  void* data = nullptr;
  KvFormat format = KvFormat::kBf16;
  float k_scale = 1.0F;  // fp8: value = code * scale
  float v_scale = 1.0F;
};

struct AttentionShape {
  int32_t n_heads = 0;  // query heads of this rank; head h reads KV head h / (n_heads / n_kv_heads)
  int32_t n_kv_heads = 0;  // divides n_heads; n_heads / n_kv_heads <= 16
  int32_t head_dim = 0;    // 64 or 128
};

/// Which slots hold the positions of a row: slot_table[row * stride + position].
struct SlotTable {
  const int32_t* data = nullptr;
  int64_t stride = 0;
};

/// Rows that compute one token each: token i of the step belongs to row[i] and sees context[i]
/// positions, its own included. context[i] = 0 is padding: nothing is read, out is not written.
/// Device memory.
struct DecodeBatch {
  int32_t n_rows = 0;
  const int32_t* row = nullptr;      // [n_rows]
  const int32_t* context = nullptr;  // [n_rows]
  SlotTable slots;
};

/// Decode attention over arbitrary slots. The grid is fixed; the work of rows of any length is
/// split over it by a plan that the device makes once per step, so that a captured step replays for
/// any lengths. Bitwise deterministic; slot numbers do not matter. One stream at a time.
class DecodeAttention {
 public:
  struct Options {
    int32_t max_rows = 256;
    /// A row's result does not depend on its neighbours (fixed split length).
    bool batch_invariant = false;
  };
  DecodeAttention(const AttentionShape& shape, KvFormat format, const Options& options);
  ~DecodeAttention();
  DecodeAttention(const DecodeAttention&) = delete;
  DecodeAttention& operator=(const DecodeAttention&) = delete;

  /// Splits the work. Once per step, before the first layer's run(). Capturable. `window` is what
  /// all layers share (0: none, or mixed); a run() may use a smaller one, which costs balance only.
  void plan(const DecodeBatch& batch, cudaStream_t stream, int32_t window = 0);
  /// out[i, h, :] = softmax(scale * q[i, h, :] . K) V. q and out are [n_rows, n_heads, head_dim]
  /// dense. Positions before context - window are masked when window > 0. Capturable. Runs ahead of
  /// the launch before it (programmatic dependent launch): all it reads must have been written
  /// before plan(), but for q and the newest position's K and V.
  void run(__nv_bfloat16* out, const __nv_bfloat16* q, const KvLayer& kv, const DecodeBatch& batch,
           float scale, int32_t window, cudaStream_t stream);
  [[nodiscard]] size_t workspace_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Several tokens of one row: tokens [token_begin, token_begin + n_tokens) of the step; the last of
/// them sees `context` positions, the one before one less (causal).
struct Chunk {
  int32_t row = 0;
  int32_t token_begin = 0;
  int32_t n_tokens = 0;
  int32_t context = 0;
};

/// Prefill attention: chunks of any length, each with any prefix in the pool (K and V of the
/// chunk's own tokens are there too when it runs). Not captured; may use host values.
class PrefillAttention {
 public:
  PrefillAttention(const AttentionShape& shape, KvFormat format, int32_t max_step_tokens,
                   int32_t max_context);
  ~PrefillAttention();
  PrefillAttention(const PrefillAttention&) = delete;
  PrefillAttention& operator=(const PrefillAttention&) = delete;

  /// Uploads what all layers share. Once per step. `chunks` is host memory, borrowed for the call.
  void plan(std::span<const Chunk> chunks, const SlotTable& slots, cudaStream_t stream);
  /// q and out are [tokens of the step, n_heads, head_dim]; only the chunks' tokens are written.
  void run(__nv_bfloat16* out, const __nv_bfloat16* q, const KvLayer& kv, float scale,
           int32_t window, cudaStream_t stream);
  [[nodiscard]] size_t workspace_bytes() const;
  /// What workspace_bytes() will be; the device is the current one.
  static size_t device_bytes(const AttentionShape& shape, int32_t max_step_tokens,
                             int32_t max_context);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace troupe::cuda
