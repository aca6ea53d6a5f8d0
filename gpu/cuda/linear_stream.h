#pragma once

#include "gpu/cuda/device.h"
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
/// A block has a tile of weight rows and all tokens (or a tile of them). The copy engine fills a
/// ring in shared memory; up to 16 tokens eight warps multiply from there by themselves, with more
/// two warp groups do. Where tiles are too few for the device, a cluster of blocks shares one, each
/// block one part of the input dimension; where they are many, blocks take tile after tile from a
/// counter, as multiprocessors do not all read equally fast. Sums are always added up in the order
/// of the input dimension: deterministic, whoever computes a tile.
///
/// Launched with programmatic serialisation: as soon as every block of a launch runs, the next
/// kernel may start, and a multiply fills its ring with weights before it waits for its tokens. So
/// the memory does not idle between multiplies, even when small kernels stand between them, if
/// those call griddepcontrol.launch_dependents at their start.
namespace troupe::cuda {

/// A compiled variant: a block multiplies `rows` weight rows by `tokens` tokens.
struct StreamKernel {
  int32_t tokens;
  int32_t rows;
  WeightFormat format;
  bool f32_out;
  const void* function;
  int32_t threads;
  int32_t sum_bytes;  // of sums on their way between warps
};
std::span<const StreamKernel> stream_kernels_bf16();
std::span<const StreamKernel> stream_kernels_fp8();

/// A way to cut a multiply, as it is stored: the kernel's numbers and how it is launched.
struct StreamVariant {
  int32_t tokens = 0;
  int32_t rows = 0;
  int32_t cluster = 0;  // blocks that share a tile
  int32_t boxes = 0;    // of 128 bytes of the input dimension, a stage of the ring
  int32_t stages = 0;
  int32_t persistent = 0;  // so many blocks a multiprocessor take tile after tile; 0: one each

  bool operator==(const StreamVariant&) const = default;
};
struct StreamPlan {
  const StreamKernel* kernel = nullptr;
  StreamVariant cut;
};
constexpr int32_t kMaxCluster = 4;

/// What the device code needs besides the tensor maps.
struct StreamArgs {
  void* out = nullptr;
  uint32_t* counter = nullptr;  // tiles taken beyond the first of each block; blocks that are done
  int32_t tiles = 0;
  int32_t sums_at = 0;  // in shared memory: in the ring when that is not used again
  int32_t n_tokens = 0;
  int32_t rows = 0;
  int32_t token_tiles = 0;  // of a tile of rows, one after the other
  int32_t k_stages = 0;     // of a tile
  int32_t boxes = 0;
  int32_t stages = 0;
  int32_t stage_bytes = 0;
};

/// One device; one thread. Needs compute capability 9.0.
class StreamGemm {
 public:
  StreamGemm();

  /// False on other devices: then there are no plans.
  [[nodiscard]] bool available() const { return encode_ != nullptr; }
  /// Ways to compute `shape`. Token tiles beyond the first read the weights again.
  [[nodiscard]] std::vector<StreamPlan> plans(const GemmShape& shape) const;
  /// Capturable: no allocation on the device. Tensor maps are made on the host and kept.
  void run(const StreamPlan& plan, const GemmShape& shape, const GemmCall& call,
           cudaStream_t stream);

 private:
  using MapKey = std::tuple<const void*, int64_t, int64_t, int32_t, int32_t>;
  /// Of rows of `row_bytes`, brought in as boxes [boxes][box_rows][128 bytes].
  const CUtensorMap& map_of(const void* data, int64_t rows, int64_t row_bytes, int32_t box_rows,
                            int32_t boxes);

  using Encode = decltype(&cuTensorMapEncodeTiled);
  Encode encode_ = nullptr;
  int32_t n_sms_ = 0;
  std::map<MapKey, CUtensorMap> maps_;
  DeviceBuffer<uint32_t> counters_;  // pairs; launches take turns, as consecutive ones overlap
  uint32_t n_launches_ = 0;
};

}  // namespace troupe::cuda
