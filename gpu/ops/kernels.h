#pragma once

#include "gpu/device/isa.h"
#include "gpu/ops/attention.h"

#include <cstdint>

namespace troupe::cpu {

/// Arguments of attention() that all its work items share.
struct AttentionJob {
  float* out = nullptr;
  const float* qkv = nullptr;
  KvLayer kv;
  QkvShape shape;
  float scale = 1.0F;
  int32_t window = 0;
};

/// One work item: tokens [first, first + n) of a row against one KV head, for query heads
/// [head_begin, head_end).
struct AttentionItem {
  AttentionRow row;
  int32_t first = 0;
  int32_t n = 0;
  int32_t kv_head = 0;
  int32_t head_begin = 0;
  int32_t head_end = 0;
};

/// Limits of the attention kernel's scratch space.
constexpr int32_t kMaxHeadDim = 256;
constexpr int32_t kMaxItemQueries = 64;  // n * (head_end - head_begin) of an item

/// The inner functions of the CPU ops, all for one token or one work item, so whatever they do is
/// batch-invariant. One table per instruction set, all from the same source.
struct Kernels {
  /// out = (x + add) normalised; add may be null; the sum goes to `sum` when that is not null.
  void (*rms_norm)(float* out, float* sum, const float* x, const float* add, const float* weight,
                   int32_t n, float eps);
  void (*silu_mul)(float* out, const float* gate, const float* up, int32_t n);
  /// cos and sin of position * inverse_frequency[i] for i < n, times magnitude.
  void (*rope_angles)(float* cos, float* sin, const float* inverse_frequency, int32_t n,
                      float magnitude, int32_t position);
  /// Rotates one head in place.
  void (*rope)(float* head, const float* cos, const float* sin, int32_t rotary_dim,
               bool interleaved);
  void (*f16_from_floats)(uint16_t* out, const float* x, int32_t n);  // n a multiple of 8
  void (*attention)(const AttentionJob& job, const AttentionItem& item);
  /// Sampler scans. largest() ignores NaN.
  bool (*all_finite)(const float* x, int64_t n);
  float (*largest)(const float* x, int64_t n);
  /// Sum of exp((x[i] - shift) * scale).
  double (*sum_exp)(const float* x, int64_t n, float shift, float scale);
  /// The random words of tokens [4 * first_group, 4 * (first_group + n_groups)): Philox4x32-10 of
  /// the counter (group, position, 0, 0) under the key `seed`. Salmon et al. 2011.
  void (*random_words)(uint32_t* out, uint64_t seed, int32_t position, uint32_t first_group,
                       int32_t n_groups);
  /// Writes the indices i whose word could lift x[i] above a score: those with
  /// 1 - u(i) < exp((x[i] - shift) * scale + offset), generously; returns how many.
  int32_t (*lifted)(int32_t* indices, const float* x, const uint32_t* words, int32_t n, float shift,
                    float scale, float offset);
};

[[nodiscard]] const Kernels& kernels(Isa isa);

extern const Kernels kPortableKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;

}  // namespace troupe::cpu
