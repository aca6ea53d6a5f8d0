#include "gpu/cuda/linear_stream.h"

#include "gpu/base/check.h"
#include "gpu/cuda/device.h"

#include <algorithm>
#include <string>
#include <vector>

namespace troupe::cuda {
namespace {

constexpr int64_t kMaxTiles = 1 << 16;
constexpr int64_t kBoxBytes = 128;

struct Cut {  // of a shape by a variant
  int64_t row_tiles = 0;
  int64_t tiles = 0;
  int64_t k_blocks = 0;
  int64_t blocks = 0;
  size_t partial_bytes = 0;
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

Cut cut(const StreamVariant& v, const GemmShape& s, int32_t n_sms) {
  Cut c;
  c.row_tiles = ceil_div(s.rows, v.row_tile);
  c.tiles = c.row_tiles * ceil_div(s.n_tokens, v.tokens);
  c.k_blocks = ceil_div(s.cols * element_bytes(s.format), kBoxBytes * v.boxes);
  c.blocks = std::min<int64_t>(c.tiles * c.k_blocks, n_sms);
  c.partial_bytes = static_cast<size_t>(2 * c.blocks * v.row_tile * v.tokens) * sizeof(float);
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

}  // namespace

StreamGemm::StreamGemm() {
  int device = 0;
  int major = 0;
  TROUPE_CUDA(cudaGetDevice(&device));
  TROUPE_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  TROUPE_CUDA(cudaDeviceGetAttribute(&n_sms_, cudaDevAttrMultiProcessorCount, device));
  if (major != 9) return;
  encode_ = reinterpret_cast<Encode>(find_encode());
  if (!available()) return;
  tickets_ = DeviceBuffer<uint32_t>(kMaxTiles);
  TROUPE_CUDA(cudaMemset(tickets_.data(), 0, tickets_.bytes()));
  for (const auto kernels : {stream_kernels_bf16(), stream_kernels_fp8()}) {
    for (const StreamKernel& k : kernels) {
      TROUPE_CUDA(cudaFuncSetAttribute(k.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       k.shared_bytes));
    }
  }
}

bool StreamGemm::fits(const StreamKernel& k, const GemmShape& s, size_t workspace) const {
  if (k.format != s.format || k.f32_out != s.f32_out) return false;
  const Cut c = cut(k.variant, s, n_sms_);
  return s.cols * element_bytes(s.format) % 16 == 0 && c.tiles <= kMaxTiles &&
         c.partial_bytes <= workspace;
}

std::vector<const StreamKernel*> StreamGemm::candidates(const GemmShape& shape,
                                                        size_t workspace_bytes) const {
  std::vector<const StreamKernel*> out;
  if (!available()) return out;
  const auto all =
      shape.format == WeightFormat::kFp8 ? stream_kernels_fp8() : stream_kernels_bf16();
  for (const StreamKernel& k : all) {
    if (fits(k, shape, workspace_bytes)) out.push_back(&k);
  }
  return out;
}

const StreamKernel* StreamGemm::usual(const GemmShape& shape, size_t workspace_bytes) const {
  const StreamKernel* best = nullptr;
  for (const StreamKernel* k : candidates(shape, workspace_bytes)) {
    const auto passes = [&](const StreamKernel* one) {
      return ceil_div(shape.n_tokens, one->variant.tokens);
    };
    // Fewest passes over the weights, then the narrowest; the list's order decides the rest.
    if (best == nullptr || passes(k) < passes(best) ||
        (passes(k) == passes(best) && k->variant.tokens < best->variant.tokens)) {
      best = k;
    }
  }
  return best;
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

void StreamGemm::run(const StreamKernel& kernel, const GemmShape& shape, const GemmCall& call,
                     std::span<std::byte> workspace, cudaStream_t stream) {
  const StreamVariant& v = kernel.variant;
  const Cut c = cut(v, shape, n_sms_);
  TROUPE_CHECK(c.partial_bytes <= workspace.size()) << c.partial_bytes;
  StreamArgs args;
  args.out = call.out;
  args.partials = reinterpret_cast<float*>(workspace.data());
  args.tickets = tickets_.data();
  args.n_tokens = shape.n_tokens;
  args.rows = static_cast<int32_t>(shape.rows);
  args.row_tiles = static_cast<int32_t>(c.row_tiles);
  args.k_blocks = static_cast<int32_t>(c.k_blocks);
  args.units = c.tiles * c.k_blocks;
  CUtensorMap w = map_of(call.w, shape.rows, shape.cols, v.row_tile, shape.format);
  CUtensorMap x = map_of(call.x, shape.n_tokens, shape.cols, v.tokens, shape.format);
  void* arguments[] = {&w, &x, &args};

  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(c.blocks));
  config.blockDim = dim3(static_cast<unsigned>(kernel.threads));
  config.dynamicSmemBytes = static_cast<size_t>(kernel.shared_bytes);
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  TROUPE_CUDA(cudaLaunchKernelExC(&config, kernel.function, arguments));
}

}  // namespace troupe::cuda
