#pragma once

#include "gpu/cuda/attention.h"

namespace troupe::cuda {

/// Tokens of a step with the row and the context of each; token[i] null means i. Device memory.
struct TokenList {
  int32_t n_tokens = 0;
  const int32_t* token = nullptr;    // [n_tokens] index into q and out, or null
  const int32_t* row = nullptr;      // [n_tokens]
  const int32_t* context = nullptr;  // [n_tokens], 0: skipped
  SlotTable slots;
};

/// Attention as it is written in a textbook, in fp32: one block per token and head, no tiles, any
/// device. The oracle for shapes that are too large for the CPU, and what runs where the fast
/// kernels do not.
void simple_attention(__nv_bfloat16* out, const __nv_bfloat16* q, const KvLayer& kv,
                      const AttentionShape& shape, const TokenList& tokens, float scale,
                      int32_t window, cudaStream_t stream);

}  // namespace troupe::cuda
