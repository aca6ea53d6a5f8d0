#include "gpu/cuda/linear_wide.h"

#include "gpu/base/check.h"
#include "gpu/cuda/device.h"

#include <algorithm>
#include <cstddef>

namespace troupe::cuda {
namespace {

using wide::kBoxBytes;
using wide::kPair;
using wide::kTileTokens;

int32_t ceil_div(int64_t a, int64_t b) { return static_cast<int32_t>((a + b - 1) / b); }

/// Pairs of blocks as a dependent launch; not movable, since one member points to another.
struct Launch {
  Launch(const WideKernel& kernel, int32_t pairs, cudaStream_t stream) {
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = kPair;
    attributes[1].val.clusterDim.y = 1;
    attributes[1].val.clusterDim.z = 1;
    config.gridDim = dim3(static_cast<unsigned>(pairs * kPair));
    config.blockDim = dim3(kWideThreads);
    config.dynamicSmemBytes = static_cast<size_t>(kernel.shared_bytes);
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = 2;
  }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};
};

/// What a variant makes of a shape.
struct Tiles {
  Tiles(const WideVariant& v, const GemmShape& s)
      : of_tokens(ceil_div(s.n_tokens, v.shares_weights != 0 ? kPair * kTileTokens : kTileTokens)),
        of_columns(ceil_div(s.rows, v.shares_weights != 0 ? v.width : kPair * v.width)),
        pairs(of_tokens * of_columns * v.split),
        sum_bytes(v.split == 1 ? 0
                               : size_t{4} * kPair * kTileTokens * static_cast<size_t>(v.width) *
                                     static_cast<size_t>(pairs)) {}
  int32_t of_tokens;
  int32_t of_columns;
  int32_t pairs;
  size_t sum_bytes;
};

}  // namespace

int32_t prepare_wide(std::span<const WideKernel> kernels) {
  for (const WideKernel& k : kernels)
    TROUPE_CUDA(cudaFuncSetAttribute(k.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     k.shared_bytes));
  const Launch any(kernels.front(), 1, nullptr);
  int32_t pairs = 0;
  TROUPE_CUDA(cudaOccupancyMaxActiveClusters(&pairs, kernels.front().function, &any.config));
  return pairs;
}

void launch_wide(const WideKernel& kernel, int32_t pairs, const CUtensorMap& x,
                 const CUtensorMap& w, const WideArgs& args, cudaStream_t stream) {
  CUtensorMap x_map = x;
  CUtensorMap w_map = w;
  WideArgs copy = args;
  void* arguments[] = {&x_map, &w_map, &copy};
  const Launch launch(kernel, pairs, stream);
  TROUPE_CUDA(cudaLaunchKernelExC(&launch.config, kernel.function, arguments));
}

WideGemm::WideGemm() {
  if (!available()) return;
  n_pairs_ = prepare_wide(wide_kernels());
  arrivals_ = DeviceBuffer<uint32_t>(static_cast<size_t>(n_pairs_) * kPair);
  TROUPE_CUDA(cudaMemset(arrivals_.data(), 0, arrivals_.bytes()));
}

std::vector<WideVariant> WideGemm::plans(const GemmShape& s, size_t workspace_bytes) const {
  constexpr int32_t kFewest = 65;
  constexpr int32_t kFewestBoxes = 4;  // of a part of the input dimension
  const int64_t row_bytes = s.cols * element_bytes(s.format);
  if (!available() || s.f32_out || s.n_tokens < kFewest || s.rows % 8 != 0 ||
      row_bytes % kBoxBytes != 0)
    return {};
  std::vector<WideVariant> out;
  for (const WideKernel& k : wide_kernels()) {
    if (k.format != s.format) continue;
    for (const int32_t split : {1, 2, 4}) {
      if (split > 1 && row_bytes / kBoxBytes < int64_t{split} * kFewestBoxes) continue;
      for (const int32_t shares_weights : {0, 1}) {
        const WideVariant v = {k.width, split, shares_weights};
        const Tiles tiles(v, s);
        if (shares_weights == 1 && s.n_tokens <= kTileTokens) continue;
        if (split > 1 && (tiles.pairs > n_pairs_ || tiles.sum_bytes > workspace_bytes)) continue;
        out.push_back(v);
      }
    }
  }
  return out;
}

void WideGemm::run(const WideVariant& v, const GemmShape& s, const GemmCall& call,
                   std::span<std::byte> workspace, cudaStream_t stream) {
  const auto kernels = wide_kernels();
  const auto kernel = std::find_if(kernels.begin(), kernels.end(), [&](const WideKernel& k) {
    return k.width == v.width && k.format == s.format;
  });
  TROUPE_CHECK(kernel != kernels.end()) << v.width;
  const Tiles tiles(v, s);
  TROUPE_CHECK(tiles.sum_bytes <= workspace.size()) << tiles.sum_bytes;
  const int64_t row_bytes = s.cols * element_bytes(s.format);
  WideArgs args = {};
  args.out = call.out;
  args.n_tokens = s.n_tokens;
  args.columns = static_cast<int32_t>(s.rows);
  args.n_boxes = static_cast<int32_t>(row_bytes / kBoxBytes);
  args.token_tiles = tiles.of_tokens;
  args.column_tiles = tiles.of_columns;
  args.shares_weights = v.shares_weights != 0;
  args.split = v.split;
  args.sums = reinterpret_cast<float4*>(workspace.data());
  args.arrivals = arrivals_.data();
  launch_wide(*kernel, tiles.pairs, maps_.of(call.x, s.n_tokens, row_bytes, kTileTokens / 2),
              maps_.of(call.w, s.rows, row_bytes, v.width / 2), args, stream);
}

}  // namespace troupe::cuda
