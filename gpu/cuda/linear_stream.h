#pragma once

#include "gpu/cuda/linear_shape.h"

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

/// Inside of Linear: the own multiply for few tokens, bound by reading the weights once.
///
/// Weights are the M side of the tensor cores' product, tokens the N side. One block runs on each
/// multiprocessor and has its share of the weight rows; a bulk copy engine fills a ring in shared
/// memory that warp groups multiply straight from. Where the rows do not divide well, a cluster of
/// blocks shares a tile of rows, each block one part of the input dimension, and the parts are
/// added up through the cluster's shared memory in that order: deterministic.
///
/// Launched with programmatic serialisation: when a block is about to fetch its last weights, the
/// next kernel may start and fetch its first ones, for which the multiprocessor has room. So the
/// memory does not idle between multiplies even when small kernels stand between them, if those
/// call griddepcontrol.launch_dependents at their start.
namespace troupe::cuda {

/// A compiled variant: a block multiplies up to 64 * groups weight rows by `tokens` tokens.
struct StreamKernel {
  int32_t tokens;
  int32_t groups;  // warp groups
  WeightFormat format;
  bool f32_out;
  const void* function;
  int32_t threads;
};
std::span<const StreamKernel> stream_kernels_bf16();
std::span<const StreamKernel> stream_kernels_fp8();

/// A way to cut a multiply, as it is stored: the kernel's numbers and how it is launched.
struct StreamVariant {
  int32_t tokens = 0;
  int32_t groups = 0;
  int32_t tile_rows = 0;  // weight rows of a tile, a multiple of 8
  int32_t cluster = 0;    // blocks that share a tile
  int32_t boxes = 0;      // of 128 bytes of the input dimension, a stage of the ring
  int32_t stages = 0;

  bool operator==(const StreamVariant&) const = default;
};
struct StreamPlan {
  const StreamKernel* kernel = nullptr;
  StreamVariant cut;
};

/// What the device code needs besides the tensor maps.
struct StreamArgs {
  void* out = nullptr;
  int32_t n_tokens = 0;
  int32_t rows = 0;
  int32_t tile_rows = 0;
  int32_t row_tiles = 0;
  int32_t tiles = 0;     // row tiles x token tiles
  int32_t k_stages = 0;  // a tile
  int32_t boxes = 0;
  int32_t stages = 0;
  int32_t trigger = 0;  // stages left to fetch when the next kernel may start
};

/// One device; one thread. Needs compute capability 9.0.
class StreamGemm {
 public:
  StreamGemm();

  /// False on other devices: then there are no plans.
  [[nodiscard]] bool available() const { return encode_ != nullptr; }
  /// Ways to compute `shape`, the likeliest first. Token tiles beyond the first read the weights
  /// again.
  [[nodiscard]] std::vector<StreamPlan> plans(const GemmShape& shape) const;
  /// Capturable: no allocation on the device. Tensor maps are made on the host and kept.
  void run(const StreamPlan& plan, const GemmShape& shape, const GemmCall& call,
           cudaStream_t stream);

 private:
  using MapKey = std::tuple<const void*, int64_t, int64_t, int32_t, WeightFormat>;
  const CUtensorMap& map_of(const void* data, int64_t rows, int64_t cols, int32_t box_rows,
                            WeightFormat format);

  using Encode = decltype(&cuTensorMapEncodeTiled);
  Encode encode_ = nullptr;
  int32_t n_sms_ = 0;
  std::vector<int32_t> resident_;  // clusters of [size] blocks, one block a multiprocessor
  std::map<MapKey, CUtensorMap> maps_;
};

}  // namespace troupe::cuda
