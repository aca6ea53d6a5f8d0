#pragma once

#include "gpu/cuda/attention.h"
#include "gpu/cuda/linear.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace troupe::cuda {

/// Where an op writes what the next linear layer reads: bf16 always; with `codes` set also as e4m3
/// with one scale a token (see quantize_rows), and then `data` may be null.
struct ActivationOut {
  __nv_bfloat16* data = nullptr;  // [n_tokens, width]
  uint8_t* codes = nullptr;       // [n_tokens, width]
  float* token_scale = nullptr;   // [n_tokens]
};

/// out[t, :] = row tokens[t] - vocab_begin of the embedding, zeros when not this rank's.
void embedding(__nv_bfloat16* out, const __nv_bfloat16* table, const int32_t* tokens,
               int32_t vocab_begin, int32_t vocab_local, int32_t n_tokens, int32_t hidden,
               cudaStream_t stream);

/// residual[t, :] += x[t, :] (+ bias), then out = residual / rms(residual) * weight. x.data null:
/// only the norm. fp32 inside; the residual is stored as bf16.
void add_rms_norm(const ActivationOut& out, __nv_bfloat16* residual, const Product& x,
                  const __nv_bfloat16* bias, const __nv_bfloat16* weight, int32_t n_tokens,
                  int32_t hidden, float eps, cudaStream_t stream);

/// Rotary tables on the device, scaling applied.
struct Rope {
  const float* inverse_frequency = nullptr;  // [rotary_dim / 2]
  int32_t rotary_dim = 0;
  bool interleaved = false;
  float magnitude = 1.0F;
};

/// From the qkv product [n_tokens, (n_heads + 2 n_kv_heads) * head_dim]: bias, optional RMS norm of
/// each q and k head, rotary embedding at positions[t]; q goes to q [n_tokens, n_heads, head_dim],
/// k and v go to slots[t] of the pool.
void rope_and_store_kv(__nv_bfloat16* q, const KvLayer& kv, const Product& qkv,
                       const __nv_bfloat16* bias, const AttentionShape& shape, const Rope& rope,
                       const __nv_bfloat16* q_norm, const __nv_bfloat16* k_norm, float eps,
                       const int32_t* positions, const int32_t* slots, int32_t n_tokens,
                       cudaStream_t stream);

/// out[t, i] = silu(gate_up[t, i]) * gate_up[t, width + i].
void silu_mul(const ActivationOut& out, const Product& gate_up, int32_t n_tokens, int32_t width,
              cudaStream_t stream);

/// out[i, :] = in[rows[i], :]; out and in do not overlap.
void gather_rows(__nv_bfloat16* out, const __nv_bfloat16* in, const int32_t* rows, int32_t n_rows,
                 int32_t width, cudaStream_t stream);

/// data[t, :] = the product itself, scales applied, in place of its raw values: products of several
/// ranks can be added only then.
void apply_scales(__nv_bfloat16* data, const Product& product, int32_t n_tokens, int32_t width,
                  cudaStream_t stream);

/// Where each rank's slice of the vocabulary begins; begin[n_ranks] is the vocabulary's size.
struct VocabularySplit {
  static constexpr int32_t kMaxRanks = 64;
  int32_t n_ranks = 1;
  int32_t widest = 0;
  int32_t begin[kMaxRanks + 1] = {};
};
/// out[i, :] = row i of every rank's slice side by side. parts: rank r's [n_rows, its width] dense
/// begins at r * n_rows * split.widest.
void join_vocabulary(float* out, const float* parts, const VocabularySplit& split, int32_t n_rows,
                     cudaStream_t stream);

}  // namespace troupe::cuda
