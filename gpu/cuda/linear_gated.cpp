#include "gpu/cuda/linear_gated.h"

#include "gpu/cuda/linear_shape.h"

#include <algorithm>

namespace troupe::cuda {
namespace {

using wide::kBoxBytes;
using wide::kPair;
using wide::kTileTokens;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

GatedLinear::GatedLinear() {
  if (!maps_.available()) return;
  n_pairs_ = prepare_wide(wide_kernels_gated());
}

GatedLinear::Cut GatedLinear::cut(const Weight& w, int32_t n_tokens) const {
  Cut best;
  // The widest first: it reads the least for its work, so others must win by more than 1 in 32.
  for (const WideKernel& kernel : wide_kernels_gated()) {
    if (kernel.format != w.format) continue;
    Cut c;
    c.kernel = &kernel;
    c.shares_weights = n_tokens > kTileTokens;
    c.token_tiles = ceil_div(n_tokens, c.shares_weights ? kPair * kTileTokens : kTileTokens);
    c.column_tiles = ceil_div(w.rows, c.shares_weights ? kernel.width : kPair * kernel.width);
    c.work = ceil_div(c.token_tiles * c.column_tiles, n_pairs_) * kernel.width;
    if (best.kernel == nullptr || c.work * 32 < best.work * 31) best = c;
  }
  return best;
}

bool GatedLinear::suits(const Weight& w, int32_t n_tokens) const {
  constexpr int32_t kFewest = 65;
  if (n_pairs_ == 0 || n_tokens < kFewest || w.rows % 32 != 0 ||
      w.cols * element_bytes(w.format) % kBoxBytes != 0)
    return false;
  // Most blocks are busy to the end. Up to one tile of tokens reading the weights takes as long as
  // multiplying, however few the tokens are.
  const int64_t places = cut(w, n_tokens).work * n_pairs_ * kPair * kTileTokens;
  const int64_t tokens = std::max(n_tokens, kTileTokens);
  return tokens * w.rows * 20 >= places * 17;
}

void GatedLinear::run(__nv_bfloat16* out, const Weight& w, const Activation& x, int32_t n_tokens,
                      cudaStream_t stream) {
  if (n_tokens == 0) return;
  const Cut c = cut(w, n_tokens);
  const int64_t row_bytes = w.cols * element_bytes(w.format);
  WideArgs args = {};
  args.out = out;
  args.token_scale = x.token_scale;
  args.channel_scale = w.channel_scale;
  args.n_tokens = n_tokens;
  args.columns = static_cast<int32_t>(w.rows / 2);
  args.n_boxes = static_cast<int32_t>(row_bytes / kBoxBytes);
  args.token_tiles = static_cast<int32_t>(c.token_tiles);
  args.column_tiles = static_cast<int32_t>(c.column_tiles);
  args.shares_weights = c.shares_weights;
  launch_wide(*c.kernel, std::min(args.token_tiles * args.column_tiles, n_pairs_),
              maps_.of(x.data, n_tokens, row_bytes, kTileTokens / 2),
              maps_.of(w.data, w.rows, row_bytes, c.kernel->width / 2), args, stream);
}

}  // namespace troupe::cuda
