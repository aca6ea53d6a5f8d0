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
#include <vector>

/// Inside of Linear: the own multiply for few tokens, bound by reading the weights once.
///
/// Weights are the M side of the tensor cores' product, tokens the N side. All weight tiles of 128
/// bytes of the input dimension form one line of work that is cut into equal parts, one a thread
/// block (stream-K, arXiv 2301.03598); a bulk copy engine fills a ring of tiles in shared memory
/// that warp groups multiply straight from. Tiles cut in two are summed by whichever block finishes
/// last, always in the order of the input dimension: deterministic.
///
/// Launched with programmatic serialisation: a block fetches its first weights while the kernel
/// before still runs, and two blocks fit on a multiprocessor, so that consecutive multiplies
/// overlap even when small kernels stand between them.
namespace troupe::cuda {

/// How the work is cut: `tokens` x `row_tile` accumulators a block, a ring of `stages` of
/// `row_tile` x (128 * boxes) bytes of weights.
struct StreamVariant {
  int32_t tokens;
  int32_t row_tile;
  int32_t boxes;
  int32_t stages;

  bool operator==(const StreamVariant&) const = default;
};

/// What the device code needs besides the tensor maps.
struct StreamArgs {
  void* out = nullptr;
  float* partials = nullptr;    // [2 * blocks][row_tile * tokens]
  uint32_t* tickets = nullptr;  // [tiles], zero between calls
  int32_t n_tokens = 0;
  int32_t rows = 0;
  int32_t row_tiles = 0;
  int32_t k_blocks = 0;  // a tile
  int64_t units = 0;     // k_blocks of all tiles
};

/// A compiled variant.
struct StreamKernel {
  StreamVariant variant;
  WeightFormat format;
  bool f32_out;
  const void* function;
  int32_t threads;
  int32_t shared_bytes;
};
std::span<const StreamKernel> stream_kernels_bf16();
std::span<const StreamKernel> stream_kernels_fp8();

/// One device; one stream at a time. Needs compute capability 9.0.
class StreamGemm {
 public:
  StreamGemm();

  /// False on other devices: then nothing else may be called.
  [[nodiscard]] bool available() const { return encode_ != nullptr; }
  /// All variants that compute `shape` with that much workspace. Token tiles beyond the first read
  /// the weights again.
  [[nodiscard]] std::vector<const StreamKernel*> candidates(const GemmShape& shape,
                                                            size_t workspace_bytes) const;
  /// The usual choice among them, null when there is none.
  [[nodiscard]] const StreamKernel* usual(const GemmShape& shape, size_t workspace_bytes) const;
  /// Capturable: no allocation on the device. Tensor maps are made on the host and kept.
  void run(const StreamKernel& kernel, const GemmShape& shape, const GemmCall& call,
           std::span<std::byte> workspace, cudaStream_t stream);

 private:
  using MapKey = std::tuple<const void*, int64_t, int64_t, int32_t, WeightFormat>;
  const CUtensorMap& map_of(const void* data, int64_t rows, int64_t cols, int32_t box_rows,
                            WeightFormat format);
  [[nodiscard]] bool fits(const StreamKernel& k, const GemmShape& s, size_t workspace) const;

  using Encode = decltype(&cuTensorMapEncodeTiled);
  Encode encode_ = nullptr;
  int n_sms_ = 0;
  DeviceBuffer<uint32_t> tickets_;
  std::map<MapKey, CUtensorMap> maps_;
};

}  // namespace troupe::cuda
