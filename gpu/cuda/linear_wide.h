#pragma once

#include "gpu/cuda/device.h"
#include "gpu/cuda/linear_shape.h"
#include "gpu/cuda/tensor_maps.h"

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

/// Inside of Linear and GatedLinear: the own multiply for 65 and more tokens.
///
/// A block multiplies 128 tokens by `width` weight rows, the widest product of the tensor cores: a
/// producer warp fills a ring in shared memory with boxes of 128 bytes of the input dimension, two
/// warp groups take 64 tokens each. Blocks come in pairs that share either the weights, with 128
/// tokens each, or the tokens, with `width` rows each: what is shared is read once and sent to
/// both, as the way from the L2 cache is what such a kernel waits for. Where tiles are too few for
/// the device, `split` pairs share one, each pair one part of the input dimension; sums go through
/// the L2 cache and are added up in its order: deterministic.
///
/// Launched with programmatic serialisation: the ring is full of weights before the kernel waits
/// for its tokens.
namespace troupe::cuda {

namespace wide {
constexpr int kPair = 2;          // blocks
constexpr int kTileTokens = 128;  // of a block
constexpr int kBoxBytes = 128;    // of the input dimension, a stage
}  // namespace wide

/// A way to cut a multiply.
struct WideVariant {
  int32_t width = 0;           // weight rows of a block, or of a pair that shares them
  int32_t split = 0;           // pairs that share the input dimension
  int32_t shares_weights = 0;  // blocks of a pair, or else the tokens

  bool operator==(const WideVariant&) const = default;
};

constexpr int32_t kMostWideSplit = 4;

/// What the device code needs besides the tensor maps.
struct WideArgs {
  void* out;
  const float* token_scale;    // [n_tokens] or null; gated only
  const float* channel_scale;  // [2 * columns] or null; gated only
  int32_t n_tokens;
  int32_t columns;  // of the result
  int32_t n_boxes;  // of the input dimension
  int32_t token_tiles;
  int32_t column_tiles;
  bool shares_weights;
  int32_t split;       // the rest is of the multiply that is not gated
  float4* sums;        // where tiles meet
  uint32_t* arrivals;  // [tiles * 2], zeros
};

/// A compiled variant.
struct WideKernel {
  int32_t width;
  WeightFormat format;
  const void* function;
  int32_t shared_bytes;
};
constexpr int32_t kWideThreads = 384;
std::span<const WideKernel> wide_kernels();
/// Those that end in silu(gate) * up, over half as many columns.
std::span<const WideKernel> wide_kernels_gated();

/// Makes the kernels ready. How many pairs of blocks run at once.
int32_t prepare_wide(std::span<const WideKernel> kernels);
/// `x` and `w` are maps of boxes of 64 and width / 2 rows.
void launch_wide(const WideKernel& kernel, int32_t pairs, const CUtensorMap& x,
                 const CUtensorMap& w, const WideArgs& args, cudaStream_t stream);

/// The multiplies of Linear. One device; one thread. Needs compute capability 9.0.
class WideGemm {
 public:
  WideGemm();
  /// False on other devices: then there are no plans.
  [[nodiscard]] bool available() const { return maps_.available(); }
  /// Ways to compute `shape`; none for few tokens, fp32 results or odd widths.
  [[nodiscard]] std::vector<WideVariant> plans(const GemmShape& shape,
                                               size_t workspace_bytes) const;
  /// Capturable: no allocation on the device.
  void run(const WideVariant& v, const GemmShape& shape, const GemmCall& call,
           std::span<std::byte> workspace, cudaStream_t stream);

 private:
  TensorMaps maps_;
  int32_t n_pairs_ = 0;  // of blocks that run at once
  DeviceBuffer<uint32_t> arrivals_;
};

}  // namespace troupe::cuda
