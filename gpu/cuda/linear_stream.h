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
/// Weights are the M side of the tensor cores' product, tokens the N side. A cluster of blocks
/// shares a tile of weight rows, each block one part of the input dimension; a bulk copy engine
/// fills a ring in shared memory that warp groups multiply straight from. The parts are added up
/// through the cluster's shared memory in the order of the input dimension: deterministic.
///
/// Launched with programmatic serialisation: a block fetches its first weights while the kernel
/// before still runs, so that the memory does not idle between multiplies even when small kernels
/// stand between them.
namespace troupe::cuda {

/// A compiled variant: `tokens` x `row_tile` accumulators a block, a ring of `stages` tiles of 128
/// bytes of the input dimension.
struct StreamKernel {
  int32_t tokens;
  int32_t row_tile;
  int32_t stages;
  WeightFormat format;
  bool f32_out;
  const void* function;
  int32_t threads;
  int32_t shared_bytes;
};
std::span<const StreamKernel> stream_kernels_bf16();
std::span<const StreamKernel> stream_kernels_fp8();

/// One way to do a multiply.
struct StreamPlan {
  const StreamKernel* kernel = nullptr;
  int32_t cluster = 1;  // blocks that share the input dimension
};
/// A plan by its numbers, as it is stored: tokens, row_tile, stages, cluster.
struct StreamVariant {
  int32_t tokens = 0;
  int32_t row_tile = 0;
  int32_t stages = 0;
  int32_t cluster = 0;

  bool operator==(const StreamVariant&) const = default;
};
StreamVariant variant_of(const StreamPlan& plan);

/// What the device code needs besides the tensor maps.
struct StreamArgs {
  void* out = nullptr;
  int32_t n_tokens = 0;
  int32_t rows = 0;
  int32_t row_tiles = 0;
  int32_t tiles = 0;     // row tiles x token tiles
  int32_t k_blocks = 0;  // of 128 bytes, a tile
};

/// One device; one thread. Needs compute capability 9.0.
class StreamGemm {
 public:
  StreamGemm();

  /// False on other devices: then there are no plans.
  [[nodiscard]] bool available() const { return encode_ != nullptr; }
  /// All ways to compute `shape`, the evenest cuts first. Token tiles beyond the first read the
  /// weights again.
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
  std::map<std::pair<const void*, int32_t>, int32_t> resident_;  // clusters, by function and size
  std::map<MapKey, CUtensorMap> maps_;
};

}  // namespace troupe::cuda
