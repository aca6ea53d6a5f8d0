#include "gpu/cuda/linear_stream.h"

#include "gpu/base/check.h"
#include "gpu/cuda/device.h"

#include <algorithm>
#include <limits>
#include <string>

namespace troupe::cuda {
namespace {

constexpr int64_t kBoxBytes = 128;
constexpr int32_t kMaxCluster = 8;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// How a plan cuts a shape.
struct Cut {
  int64_t row_tiles = 0;
  int64_t tiles = 0;
  int64_t k_blocks = 0;
  int64_t rounds = 0;    // tiles that a cluster does one after the other, at most
  int64_t clusters = 0;  // as few as do it in that many rounds
};

Cut cut(const StreamPlan& plan, const GemmShape& s, int64_t resident) {
  Cut c;
  c.row_tiles = ceil_div(s.rows, plan.kernel->row_tile);
  c.tiles = c.row_tiles * ceil_div(s.n_tokens, plan.kernel->tokens);
  c.k_blocks = ceil_div(s.cols * element_bytes(s.format), kBoxBytes);
  c.rounds = ceil_div(c.tiles, resident);
  c.clusters = ceil_div(c.tiles, c.rounds);
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
  Launch(const StreamPlan& plan, int64_t clusters, cudaStream_t stream) {
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = static_cast<unsigned>(plan.cluster);
    attributes[1].val.clusterDim.y = 1;
    attributes[1].val.clusterDim.z = 1;
    config.gridDim = dim3(static_cast<unsigned>(clusters * plan.cluster));
    config.blockDim = dim3(static_cast<unsigned>(plan.kernel->threads));
    config.dynamicSmemBytes = static_cast<size_t>(plan.kernel->shared_bytes);
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = 2;
  }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};
};

}  // namespace

StreamVariant variant_of(const StreamPlan& plan) {
  return {plan.kernel->tokens, plan.kernel->row_tile, plan.kernel->stages, plan.cluster};
}

StreamGemm::StreamGemm() {
  int device = 0;
  int major = 0;
  TROUPE_CUDA(cudaGetDevice(&device));
  TROUPE_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  TROUPE_CUDA(cudaDeviceGetAttribute(&n_sms_, cudaDevAttrMultiProcessorCount, device));
  if (major != 9) return;
  encode_ = reinterpret_cast<Encode>(find_encode());
  if (!available()) return;
  for (const auto kernels : {stream_kernels_bf16(), stream_kernels_fp8()}) {
    for (const StreamKernel& k : kernels) {
      TROUPE_CUDA(cudaFuncSetAttribute(k.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       k.shared_bytes));
      for (int32_t size = 1; size <= kMaxCluster; ++size) {
        const StreamPlan plan = {&k, size};
        const Launch launch(plan, 1, nullptr);
        int n = 0;
        TROUPE_CUDA(cudaOccupancyMaxActiveClusters(&n, k.function, &launch.config));
        resident_[{k.function, size}] = n;
      }
    }
  }
}

std::vector<StreamPlan> StreamGemm::plans(const GemmShape& shape) const {
  std::vector<std::pair<double, StreamPlan>> found;
  const auto all =
      shape.format == WeightFormat::kFp8 ? stream_kernels_fp8() : stream_kernels_bf16();
  if (!available() || shape.cols * element_bytes(shape.format) % 16 != 0) return {};
  for (const StreamKernel& k : all) {
    if (k.f32_out != shape.f32_out) continue;
    const int64_t slots = resident_.at({k.function, 1});
    for (int32_t size = 1; size <= kMaxCluster; ++size) {
      const int64_t resident = resident_.at({k.function, size});
      const StreamPlan plan = {&k, size};
      if (resident == 0) continue;
      const Cut c = cut(plan, shape, resident);
      if (c.k_blocks < size || c.tiles > std::numeric_limits<int32_t>::max()) continue;
      // Time in units of one tile of 128 bytes, if every place for a block is worth the same.
      const double even = static_cast<double>(c.tiles * c.k_blocks) / static_cast<double>(slots);
      const double longest = static_cast<double>(c.rounds * ceil_div(c.k_blocks, size));
      found.push_back({even / longest, plan});
    }
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<StreamPlan> out;
  for (const auto& [evenness, plan] : found) out.push_back(plan);
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
  const StreamKernel& k = *plan.kernel;
  const Cut c = cut(plan, shape, resident_.at({k.function, plan.cluster}));
  StreamArgs args;
  args.out = call.out;
  args.n_tokens = shape.n_tokens;
  args.rows = static_cast<int32_t>(shape.rows);
  args.row_tiles = static_cast<int32_t>(c.row_tiles);
  args.tiles = static_cast<int32_t>(c.tiles);
  args.k_blocks = static_cast<int32_t>(c.k_blocks);
  CUtensorMap w = map_of(call.w, shape.rows, shape.cols, k.row_tile, shape.format);
  CUtensorMap x = map_of(call.x, shape.n_tokens, shape.cols, k.tokens, shape.format);
  void* arguments[] = {&w, &x, &args};
  const Launch launch(plan, c.clusters, stream);
  TROUPE_CUDA(cudaLaunchKernelExC(&launch.config, k.function, arguments));
}

}  // namespace troupe::cuda
