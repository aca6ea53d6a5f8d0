#include "gpu/cuda/linear_stream.h"

#include "gpu/base/check.h"
#include "gpu/cuda/device.h"

#include <algorithm>
#include <optional>
#include <string>

namespace troupe::cuda {
namespace {

constexpr int64_t kBoxBytes = 128;
constexpr int64_t kGroupRows = 64;  // of the tensor cores' product
constexpr int32_t kMaxCluster = 4;
constexpr int32_t kMaxStages = 24;
constexpr int32_t kMaxBoxes = 4;
constexpr int64_t kStageBytes = int64_t{14} << 10;  // of weights, about
// Two blocks of consecutive kernels fit on a multiprocessor, and a small kernel between them.
constexpr int64_t kHalfRing = int64_t{104} << 10;
// One block alone.
constexpr int64_t kWholeRing = int64_t{208} << 10;
constexpr int64_t kAlignment = 1024;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Bytes that the blocks of a cluster send each other, see Layout in linear_stream.cuh.
int64_t sent_bytes(const StreamKernel& k, int32_t cluster) {
  if (cluster == 1) return 0;
  return cluster * ceil_div(k.tokens / 4, cluster) * k.groups * 128 * 8;
}

int64_t stage_bytes(const StreamVariant& v) {
  return v.boxes * (v.tile_rows + v.tokens) * kBoxBytes;
}

int64_t shared_bytes(const StreamPlan& p) {
  // The last box of weights is read as if it were whole.
  const int64_t slack =
      std::max<int64_t>(0, (kGroupRows * p.kernel->groups - p.cut.tile_rows) * kBoxBytes -
                               p.cut.stages * p.cut.boxes * p.cut.tokens * kBoxBytes);
  return p.cut.stages * stage_bytes(p.cut) + sent_bytes(*p.kernel, p.cut.cluster) + slack +
         kAlignment;
}

/// A tile height, and how well it cuts the shape: bytes that the busiest block brings in.
struct Cut {
  StreamVariant variant;
  int64_t busiest = 0;
};

/// The lowest tiles that `clusters` clusters get through in `rounds` rounds.
std::optional<Cut> cut(const StreamKernel& k, const GemmShape& s, int32_t cluster, int64_t clusters,
                       int64_t rounds, int64_t ring_bytes) {
  const int64_t token_tiles = ceil_div(s.n_tokens, k.tokens);
  const int64_t row_tiles = clusters * rounds / token_tiles;
  const int64_t k_boxes = ceil_div(s.cols * element_bytes(s.format), kBoxBytes);
  if (row_tiles == 0) return std::nullopt;
  const int64_t height = ceil_div(ceil_div(s.rows, row_tiles), 8) * 8;
  if (height > kGroupRows * k.groups || height <= kGroupRows * (k.groups - 1)) return std::nullopt;
  Cut c;
  StreamVariant& v = c.variant;
  v.tokens = k.tokens;
  v.groups = k.groups;
  v.tile_rows = static_cast<int32_t>(height);
  v.cluster = cluster;
  v.boxes =
      static_cast<int32_t>(std::clamp<int64_t>(kStageBytes / (height * kBoxBytes), 1, kMaxBoxes));
  v.stages = static_cast<int32_t>(
      std::min<int64_t>((ring_bytes - sent_bytes(k, cluster)) / stage_bytes(v), kMaxStages));
  const int64_t k_stages = ceil_div(k_boxes, v.boxes);
  if (k_stages < cluster || v.stages < 3) return std::nullopt;
  // Rows of a box beyond the last token are not fetched.
  const int64_t x_rows = std::min(k.tokens, s.n_tokens);
  const int64_t exchange = cluster == 1 ? 0 : int64_t{24} << 10;  // about 1 us of reading
  c.busiest =
      rounds * ceil_div(k_stages, cluster) * v.boxes * (height + x_rows / 2) * kBoxBytes + exchange;
  return c;
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
  for (const auto kernels : {stream_kernels_bf16(), stream_kernels_fp8()}) {
    for (const StreamKernel& k : kernels) {
      TROUPE_CUDA(cudaFuncSetAttribute(k.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       most_shared - 2 * static_cast<int>(kAlignment)));
    }
  }
  const StreamKernel& any = stream_kernels_bf16().front();
  resident_.assign(kMaxCluster + 1, 0);
  resident_[1] = n_sms_;
  for (int32_t size = 2; size <= kMaxCluster; ++size) {
    // So much memory that no two blocks share a multiprocessor.
    const Launch launch({&any, {.cluster = size}}, 1, most_shared - 2 * kAlignment, nullptr);
    TROUPE_CUDA(cudaOccupancyMaxActiveClusters(&resident_[static_cast<size_t>(size)], any.function,
                                               &launch.config));
  }
}

std::vector<StreamPlan> StreamGemm::plans(const GemmShape& shape) const {
  const auto all =
      shape.format == WeightFormat::kFp8 ? stream_kernels_fp8() : stream_kernels_bf16();
  if (!available() || shape.cols * element_bytes(shape.format) % 16 != 0) return {};
  std::vector<std::pair<int64_t, StreamPlan>> found;
  for (const StreamKernel& k : all) {
    if (k.f32_out != shape.f32_out) continue;
    for (int32_t size = 1; size <= kMaxCluster; ++size) {
      const int64_t clusters = resident_[static_cast<size_t>(size)];
      if (clusters == 0) continue;
      const int64_t tiles =
          ceil_div(shape.rows, kGroupRows * k.groups) * ceil_div(shape.n_tokens, k.tokens);
      const int64_t rounds = ceil_div(tiles, clusters);
      for (const int64_t ring : {kHalfRing, kWholeRing}) {
        if (const auto c = cut(k, shape, size, clusters, rounds, ring)) {
          found.push_back({c->busiest, {&k, c->variant}});
        }
      }
    }
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<StreamPlan> out;
  out.reserve(found.size());
  for (const auto& [bytes, plan] : found) out.push_back(plan);
  return out;
}

const CUtensorMap& StreamGemm::map_of(const void* data, int64_t rows, int64_t cols,
                                      int32_t box_rows, WeightFormat format) {
  const auto [it, is_new] = maps_.try_emplace(MapKey{data, rows, cols, box_rows, format});
  if (!is_new) return it->second;
  const bool fp8 = format == WeightFormat::kFp8;
  const cuuint64_t size[] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
  const cuuint64_t pitch[] = {static_cast<cuuint64_t>(cols * element_bytes(format))};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(kBoxBytes / element_bytes(format)),
                            static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t step[] = {1, 1};
  const CUresult status =
      encode_(&it->second, fp8 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
              2, const_cast<void*>(data), size, pitch, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
              CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
              CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    maps_.erase(it);
    throw DeviceError("cuTensorMapEncodeTiled failed with " + std::to_string(status) + " for " +
                      std::to_string(rows) + " x " + std::to_string(cols));
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
  args.tile_rows = v.tile_rows;
  args.row_tiles = static_cast<int32_t>(ceil_div(shape.rows, v.tile_rows));
  args.tiles = args.row_tiles * static_cast<int32_t>(ceil_div(shape.n_tokens, v.tokens));
  args.k_stages =
      static_cast<int32_t>(ceil_div(shape.cols * element_bytes(shape.format), kBoxBytes * v.boxes));
  args.boxes = v.boxes;
  args.stages = v.stages;
  args.trigger = v.stages / 2;
  CUtensorMap w = map_of(call.w, shape.rows, shape.cols, v.tile_rows, shape.format);
  CUtensorMap x = map_of(call.x, shape.n_tokens, shape.cols, v.tokens, shape.format);
  void* arguments[] = {&w, &x, &args};
  const int64_t clusters = std::min<int64_t>(args.tiles, resident_[static_cast<size_t>(v.cluster)]);
  const Launch launch(plan, clusters, shared_bytes(plan), stream);
  TROUPE_CUDA(cudaLaunchKernelExC(&launch.config, plan.kernel->function, arguments));
}

}  // namespace troupe::cuda
