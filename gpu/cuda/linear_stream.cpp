#include "gpu/cuda/linear_stream.h"

#include "gpu/base/check.h"
#include "gpu/cuda/device.h"

#include <algorithm>
#include <span>
#include <string>

namespace troupe::cuda {
namespace {

constexpr int64_t kBoxBytes = 128;
constexpr int64_t kAlignment = 1024;
constexpr int32_t kMaxStages = 24;
constexpr uint32_t kCounters = 64;
constexpr int32_t kFewTokens = 16;

/// Ways to cut that won somewhere inside a step of Llama 8B on an H200; `blocks` share a
/// multiprocessor's memory. Boxes of few rows that are long in the input dimension read the memory
/// best and balance best; more tokens want more rows, or their own bytes count.
struct Cut {
  int32_t rows, cluster, boxes, blocks, persistent;
};
constexpr Cut kFewTokensCuts[] = {
    {16, 1, 8, 1, 1}, {16, 1, 8, 2, 2}, {16, 1, 8, 2, 0}, {16, 1, 8, 3, 0},  {32, 1, 8, 1, 0},
    {32, 1, 8, 1, 1}, {32, 1, 8, 2, 0}, {32, 1, 4, 1, 1}, {32, 1, 4, 2, 2},  {32, 1, 4, 2, 0},
    {32, 2, 4, 2, 0}, {64, 1, 8, 1, 0}, {64, 1, 4, 1, 0}, {64, 1, 4, 1, 1},  {64, 1, 2, 2, 0},
    {64, 2, 4, 1, 0}, {64, 2, 8, 1, 0}, {64, 4, 2, 2, 0}, {128, 1, 2, 2, 0}, {128, 4, 2, 2, 0},
};
constexpr Cut kManyTokensCuts[] = {
    {64, 1, 4, 1, 0}, {64, 2, 4, 1, 0}, {64, 4, 4, 1, 0},  {64, 2, 2, 1, 0},  {64, 1, 2, 2, 0},
    {64, 2, 2, 2, 0}, {64, 4, 2, 2, 0}, {128, 1, 2, 1, 0}, {128, 2, 2, 1, 0}, {128, 4, 2, 1, 0},
};
// Shared memory of a multiprocessor less what small kernels beside the multiply and the blocks'
// own barriers take.
constexpr int64_t kRoom = int64_t{222} << 10;
constexpr int64_t kBlockOverhead = int64_t{3} << 10;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Rows of a box of tokens.
int32_t box_tokens(const StreamVariant& v, int32_t n_tokens) {
  return v.tokens == 8 ? std::min(n_tokens, v.tokens) : v.tokens;
}

int64_t stage_bytes(const StreamVariant& v, int32_t n_tokens) {
  const int64_t bytes = v.boxes * (v.rows + box_tokens(v, n_tokens)) * kBoxBytes;
  return ceil_div(bytes, kAlignment) * kAlignment;
}

/// The driver's function that describes a matrix to the copy engine. Looked up at run time: build
/// machines have no driver to link with.
void* find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = {};
  const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                              12000, cudaEnableDefault, &found);
  return status == cudaSuccess && found == cudaDriverEntryPointSuccess ? function : nullptr;
}

/// A launch with its attributes; not movable, since one member points to another.
struct Launch {
  Launch(const StreamPlan& plan, int64_t clusters, int64_t shared, cudaStream_t stream) {
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = static_cast<unsigned>(plan.cut.cluster);
    attributes[1].val.clusterDim.y = 1;
    attributes[1].val.clusterDim.z = 1;
    attributes[2].id = cudaLaunchAttributeClusterSchedulingPolicyPreference;
    attributes[2].val.clusterSchedulingPolicyPreference = cudaClusterSchedulingPolicySpread;
    config.gridDim = dim3(static_cast<unsigned>(clusters * plan.cut.cluster));
    config.blockDim = dim3(static_cast<unsigned>(plan.kernel->threads));
    config.dynamicSmemBytes = static_cast<size_t>(shared);
    config.stream = stream;
    config.attrs = attributes;
    // Blocks that are no cluster are spread best when nothing is said about clusters.
    config.numAttrs = plan.cut.cluster > 1 ? 3 : 1;
  }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  cudaLaunchAttribute attributes[3] = {};
  cudaLaunchConfig_t config = {};
};

}  // namespace

StreamGemm::StreamGemm() {
  int device = 0;
  int major = 0;
  int most_shared = 0;
  TROUPE_CUDA(cudaGetDevice(&device));
  TROUPE_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  TROUPE_CUDA(cudaDeviceGetAttribute(&n_sms_, cudaDevAttrMultiProcessorCount, device));
  TROUPE_CUDA(
      cudaDeviceGetAttribute(&most_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  if (major != 9) return;
  encode_ = reinterpret_cast<Encode>(find_encode());
  if (!available()) return;
  counters_ = DeviceBuffer<uint32_t>(2 * kCounters);
  TROUPE_CUDA(cudaMemset(counters_.data(), 0, counters_.bytes()));
  for (const auto kernels : {stream_kernels_bf16(), stream_kernels_fp8()}) {
    for (const StreamKernel& k : kernels) {
      TROUPE_CUDA(cudaFuncSetAttribute(k.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       most_shared - 2 * static_cast<int>(kAlignment)));
    }
  }
}

std::vector<StreamPlan> StreamGemm::plans(const GemmShape& shape) const {
  const auto all =
      shape.format == WeightFormat::kFp8 ? stream_kernels_fp8() : stream_kernels_bf16();
  if (!available() || shape.cols * element_bytes(shape.format) % kBoxBytes != 0) return {};
  std::vector<StreamPlan> out;
  const int64_t k_boxes = shape.cols * element_bytes(shape.format) / kBoxBytes;
  for (const StreamKernel& k : all) {
    if (k.f32_out != shape.f32_out) continue;
    const int64_t tiles = ceil_div(shape.rows, k.rows) * ceil_div(shape.n_tokens, k.tokens);
    for (const Cut& cut : k.tokens <= kFewTokens ? std::span<const Cut>(kFewTokensCuts)
                                                 : std::span<const Cut>(kManyTokensCuts)) {
      if (cut.rows != k.rows || ceil_div(k_boxes, cut.boxes) < int64_t{2} * cut.cluster) continue;
      if (cut.persistent > 0 && tiles <= int64_t{n_sms_} * cut.persistent) continue;
      StreamVariant v = {k.tokens, k.rows, cut.cluster, cut.boxes, 0, cut.persistent};
      const int64_t ring =
          kRoom / cut.blocks - kBlockOverhead - (cut.persistent > 0 ? k.sum_bytes : 0);
      const int64_t stage = stage_bytes(v, shape.n_tokens);
      v.stages = static_cast<int32_t>(std::min<int64_t>(ring / stage, kMaxStages));
      if (v.stages >= 3 && v.stages * stage >= k.sum_bytes) out.push_back({&k, v});
    }
  }
  return out;
}

const CUtensorMap& StreamGemm::map_of(const void* data, int64_t rows, int64_t row_bytes,
                                      int32_t box_rows, int32_t boxes) {
  const auto [it, is_new] = maps_.try_emplace(MapKey{data, rows, row_bytes, box_rows, boxes});
  if (!is_new) return it->second;
  const cuuint64_t size[] = {kBoxBytes, static_cast<cuuint64_t>(rows),
                             static_cast<cuuint64_t>(row_bytes / kBoxBytes)};
  const cuuint64_t pitch[] = {static_cast<cuuint64_t>(row_bytes), kBoxBytes};
  const cuuint32_t box[] = {kBoxBytes, static_cast<cuuint32_t>(box_rows),
                            static_cast<cuuint32_t>(boxes)};
  const cuuint32_t step[] = {1, 1, 1};
  // L2 fetches what a row of a box has: with 256 bytes, steps of one row took 4 % longer on an
  // H200.
  const CUresult status =
      encode_(&it->second, CU_TENSOR_MAP_DATA_TYPE_UINT8, 3, const_cast<void*>(data), size, pitch,
              box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
              CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    maps_.erase(it);
    throw DeviceError("cuTensorMapEncodeTiled failed with " + std::to_string(status) + " for " +
                      std::to_string(rows) + " rows of " + std::to_string(row_bytes));
  }
  return it->second;
}

void StreamGemm::run(const StreamPlan& plan, const GemmShape& shape, const GemmCall& call,
                     cudaStream_t stream) {
  const StreamVariant& v = plan.cut;
  StreamArgs args;
  args.out = call.out;
  args.n_tokens = shape.n_tokens;
  args.rows = static_cast<int32_t>(shape.rows);
  args.token_tiles = static_cast<int32_t>(ceil_div(shape.n_tokens, v.tokens));
  args.k_stages =
      static_cast<int32_t>(ceil_div(shape.cols * element_bytes(shape.format), kBoxBytes * v.boxes));
  args.boxes = v.boxes;
  args.stages = v.stages;
  args.stage_bytes = static_cast<int32_t>(stage_bytes(v, shape.n_tokens));
  const int64_t row_bytes = shape.cols * element_bytes(shape.format);
  CUtensorMap w = map_of(call.w, shape.rows, row_bytes, v.rows, v.boxes);
  CUtensorMap x = map_of(call.x, shape.n_tokens, row_bytes, box_tokens(v, shape.n_tokens), v.boxes);
  void* arguments[] = {&w, &x, &args};
  const int64_t tiles = ceil_div(shape.rows, v.rows) * args.token_tiles;
  args.tiles = static_cast<int32_t>(tiles);
  int64_t shared = v.stages * stage_bytes(v, shape.n_tokens);
  int64_t clusters = tiles;
  if (v.persistent > 0) {
    args.counter = counters_.data() + 2 * (n_launches_++ % kCounters);
    args.sums_at = static_cast<int32_t>(shared);
    shared += plan.kernel->sum_bytes;
    clusters = std::min<int64_t>(tiles, int64_t{n_sms_} * v.persistent);
  }
  const Launch launch(plan, clusters, shared + kAlignment, stream);
  TROUPE_CUDA(cudaLaunchKernelExC(&launch.config, plan.kernel->function, arguments));
}

}  // namespace troupe::cuda
