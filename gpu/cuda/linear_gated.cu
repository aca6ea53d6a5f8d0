#include "gpu/base/check.h"
#include "gpu/cuda/attention_wgmma.cuh"
#include "gpu/cuda/device.h"
#include "gpu/cuda/hopper.cuh"
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/linear_gated.h"
#include "gpu/cuda/linear_shape.h"
#include "gpu/cuda/wgmma_wide.cuh"

#include <algorithm>
#include <string>

/// A persistent kernel: clusters of two blocks share a tile of weight rows, each has 128 tokens. A
/// producer warp fills a ring in shared memory, two warp groups multiply 64 tokens each by 128 gate
/// rows and the 128 up rows that belong to them, so that a thread holds both halves of a result.
namespace troupe::cuda {
namespace {

constexpr int kTileTokens = 128;  // of a block
constexpr int kTileWidth = 128;   // columns of the result; as many gate and as many up rows
constexpr int kStages = 4;
constexpr int kGroups = 2;  // warp groups that multiply
constexpr int kThreads = 128 * (kGroups + 1);
constexpr int kCluster = 2;
constexpr int kBoxBytes = 128;  // of the input dimension, a stage
constexpr int kBox = kTileTokens * kBoxBytes;
constexpr int kStageBytes = 3 * kBox;                              // tokens, gate rows, up rows
constexpr int kOutBytes = kTileTokens / kGroups * kTileWidth * 2;  // of one warp group
constexpr int kSharedBytes = kStages * kStageBytes + kGroups * kOutBytes + 1024;  // + alignment
constexpr int kPairsTogether = 8;  // 2,048 tokens: their activations stay in the L2 cache

struct GatedArgs {
  const float* token_scale;    // [n_tokens] or null
  const float* channel_scale;  // [2 * width] or null
  int32_t n_tokens;
  int32_t width;
  int32_t n_boxes;    // of the input dimension
  int32_t n_pairs;    // of token tiles
  int32_t n_columns;  // tiles of the width
};

/// Tiles in the order of work: all columns for some pairs of token tiles, then for the next ones.
struct Tile {
  int32_t pair;
  int32_t column;
};
__device__ __forceinline__ Tile tile_of(const GatedArgs& args, int32_t turn) {
  const int32_t together = kPairsTogether * args.n_columns;
  const int32_t first = turn / together * kPairsTogether;
  const int32_t n = min(kPairsTogether, args.n_pairs - first);
  return {first + turn % together % n, turn % together / n};
}

#ifdef TROUPE_HAS_WGMMA

/// The box at (column, row) into both blocks of the cluster, at the same place in each.
__device__ __forceinline__ void copy_to_both(void* to, const CUtensorMap* map, int32_t column,
                                             int32_t row, uint64_t* barrier) {
  constexpr uint16_t kBoth = 3;
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(hopper::shared_address(to)),
      "l"(map), "r"(hopper::shared_address(barrier)), "r"(column), "r"(row), "h"(kBoth)
      : "memory");
}
__device__ __forceinline__ void copy_own(void* to, const CUtensorMap* map, int32_t column,
                                         int32_t row, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4}], [%2];" ::"r"(hopper::shared_address(to)),
      "l"(map), "r"(hopper::shared_address(barrier)), "r"(column), "r"(row)
      : "memory");
}
__device__ __forceinline__ void store_box(const CUtensorMap* map, int32_t column, int32_t row,
                                          const void* from) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
      "r"(column), "r"(row), "r"(hopper::shared_address(from))
      : "memory");
}
__device__ __forceinline__ void commit_stores() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/// The committed stores have read their shared memory.
__device__ __forceinline__ void wait_stores() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

/// At `barrier`, an address in the cluster. Nothing was written that the other block would read, so
/// this orders nothing beyond the block: a release to the cluster would wait for the whole memory.
__device__ __forceinline__ void arrive_in_cluster(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/// silu(g) * u of two results: one reciprocal serves both.
__device__ __forceinline__ float2 gate(float2 g, float2 u) {
  constexpr float kSmallest = -40.0F;  // the product of two exponentials stays finite
  const float a = 1.0F + __expf(-fmaxf(g.x, kSmallest));
  const float b = 1.0F + __expf(-fmaxf(g.y, kSmallest));
  const float inverse = __fdividef(1.0F, a * b);
  return {g.x * u.x * (inverse * b), g.y * u.y * (inverse * a)};
}

template <WeightFormat kFormat>
__device__ __forceinline__ void scale_tile(float (&d)[128], const GatedArgs& args, int32_t token,
                                           int32_t column) {
  float of_token[2];
#pragma unroll
  for (int r = 0; r < 2; ++r)
    of_token[r] = token + r * 8 < args.n_tokens ? args.token_scale[token + r * 8] : 0.0F;
#pragma unroll
  for (int i = 0; i < kTileWidth / 8; ++i) {
    const int32_t at = column + i * 8;
    if (at >= args.width) continue;
    const float2 g = *reinterpret_cast<const float2*>(args.channel_scale + at);
    const float2 u = *reinterpret_cast<const float2*>(args.channel_scale + args.width + at);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      d[i * 4 + r * 2] *= of_token[r] * g.x;
      d[i * 4 + r * 2 + 1] *= of_token[r] * g.y;
      d[64 + i * 4 + r * 2] *= of_token[r] * u.x;
      d[64 + i * 4 + r * 2 + 1] *= of_token[r] * u.y;
    }
  }
}

#endif  // TROUPE_HAS_WGMMA

template <WeightFormat kFormat>
__global__ void __cluster_dims__(kCluster) __launch_bounds__(kThreads, 1)
    gated(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap gate_rows,
          const __grid_constant__ CUtensorMap up_rows, const __grid_constant__ CUtensorMap out,
          const __grid_constant__ GatedArgs args) {
#ifdef TROUPE_HAS_WGMMA
  constexpr int kBoxColumns = kBoxBytes / (kFormat == WeightFormat::kFp8 ? 1 : 2);
  extern __shared__ unsigned char memory[];
  __shared__ uint64_t full[kStages];
  __shared__ uint64_t empty[kStages];
  unsigned char* const ring = memory + (1024 - hopper::shared_address(memory) % 1024) % 1024;
  const int group = static_cast<int>(threadIdx.x) / 128;
  const auto rank = static_cast<int32_t>(hopper::cluster_rank());
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      hopper::init_barrier(&full[s], 1);
      hopper::init_barrier(&empty[s], kCluster * kGroups * 4);
    }
    hopper::fence_barrier_init();
  }
  hopper::cluster_arrive();
  hopper::cluster_wait();
  wait_for_upstream();
  release_downstream();
  const auto clusters = static_cast<int32_t>(gridDim.x) / kCluster;
  const auto first = static_cast<int32_t>(blockIdx.x) / kCluster;
  const int32_t turns = args.n_pairs * args.n_columns;
  int stage = 0;
  uint32_t parity = 0;
  const auto next_stage = [&] {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1U;
    }
  };
  if (group == kGroups) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x % 128 == 0) {
      const CUtensorMap* const shared_rows = rank == 0 ? &gate_rows : &up_rows;
      for (int32_t turn = first; turn < turns; turn += clusters) {
        const Tile tile = tile_of(args, turn);
        for (int32_t box = 0; box < args.n_boxes; ++box) {
          unsigned char* const to = ring + stage * kStageBytes;
          hopper::wait(&empty[stage], parity ^ 1U);  // in both blocks
          hopper::arrive_expecting(&full[stage], kStageBytes);
          copy_own(to, &x, box * kBoxColumns, (tile.pair * kCluster + rank) * kTileTokens,
                   &full[stage]);
          copy_to_both(to + (1 + rank) * kBox, shared_rows, box * kBoxColumns,
                       tile.column * kTileWidth, &full[stage]);
          next_stage();
        }
      }
    }
    __syncwarp();
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int thread = static_cast<int>(threadIdx.x) % 128;
    const int lane = thread % 32;
    unsigned char* const results = ring + kStages * kStageBytes + group * kOutBytes;
    const auto group_sync = [&] { asm volatile("bar.sync %0, 128;" ::"r"(1 + group) : "memory"); };
    const uint32_t empty_of_lane = hopper::remote_address(empty, static_cast<uint32_t>(lane % 2));
    const auto release = [&](int s) {
      if (lane < kCluster) arrive_in_cluster(empty_of_lane + static_cast<uint32_t>(s) * 8);
    };
    float d[128];
    for (int32_t turn = first; turn < turns; turn += clusters) {
      const Tile tile = tile_of(args, turn);
      int last = 0;
      for (int32_t box = 0; box < args.n_boxes; ++box) {
        const unsigned char* const from = ring + stage * kStageBytes;
        const uint64_t a = hopper::tile_descriptor(from + group * (kBox / kGroups));
        const uint64_t b = hopper::tile_descriptor(from + kBox);
        hopper::wait(&full[stage], parity);
        hopper::begin_multiply();
#pragma unroll
        for (int step = 0; step < kBoxBytes / 32; ++step)
          hopper::WideWgmma<kFormat>::run(d, a + static_cast<uint64_t>(step) * hopper::kNextStep,
                                          b + static_cast<uint64_t>(step) * hopper::kNextStep,
                                          box + step > 0 ? 1 : 0);
        hopper::commit_multiply();
        if (box > 0) {
          hopper::finish_multiply<1>();
          release(last);
        }
        last = stage;
        next_stage();
      }
      hopper::finish_multiply<0>(d);
      release(last);

      const int32_t token = (tile.pair * kCluster + rank) * kTileTokens + group * 64;
      const int32_t column = tile.column * kTileWidth;
      if constexpr (kFormat == WeightFormat::kFp8)
        scale_tile<kFormat>(d, args, token + thread / 32 * 16 + lane / 4, column + lane % 4 * 2);
      if (thread == 0) wait_stores();
      group_sync();
#pragma unroll
      for (int i = 0; i < kTileWidth / 16; ++i) {
        uint32_t r[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int at = i * 8 + j * 2;
          const float2 v = gate({d[at], d[at + 1]}, {d[64 + at], d[64 + at + 1]});
          const __nv_bfloat162 two = __floats2bfloat162_rn(v.x, v.y);
          r[j] = *reinterpret_cast<const uint32_t*>(&two);
        }
        const int row = thread / 32 * 16 + lane % 16;
        const int chunk = i * 2 + lane / 16;  // 16 bytes of the row
        stmatrix_x4(hopper::shared_address(results) +
                        static_cast<uint32_t>(chunk / 8 * (64 * 128) + row * 128 +
                                              ((chunk % 8) ^ (row & 7)) * 16),
                    r[0], r[1], r[2], r[3]);
      }
      fence_async_proxy();
      group_sync();
      if (thread == 0) {
        for (int half = 0; half < 2; ++half)
          if (column + half * 64 < args.width)
            store_box(&out, column + half * 64, token, results + half * (64 * 128));
        commit_stores();
      }
    }
    if (thread == 0) wait_stores();
    __syncwarp();
  }
  // Nobody leaves while the other block may still reach into its memory.
  hopper::cluster_arrive();
  hopper::cluster_wait();
#else
  __trap();
#endif
}

using Entry = void (*)(CUtensorMap, CUtensorMap, CUtensorMap, CUtensorMap, GatedArgs);
Entry entry(WeightFormat format) {
  return format == WeightFormat::kFp8 ? &gated<WeightFormat::kFp8> : &gated<WeightFormat::kBf16>;
}

int32_t ceil_div(int64_t a, int64_t b) { return static_cast<int32_t>((a + b - 1) / b); }

/// Build machines have no driver to link with.
void* find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = {};
  const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                              12000, cudaEnableDefault, &found);
  return status == cudaSuccess && found == cudaDriverEntryPointSuccess ? function : nullptr;
}

}  // namespace

GatedLinear::GatedLinear() {
  int device = 0;
  int major = 0;
  TROUPE_CUDA(cudaGetDevice(&device));
  TROUPE_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  if (major != 9) return;
  for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8}) {
    TROUPE_CUDA(cudaFuncSetAttribute(reinterpret_cast<const void*>(entry(format)),
                                     cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  }
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = kCluster;
  cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = 1;
  config.gridDim = dim3(kCluster);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kSharedBytes;
  config.attrs = &cluster;
  config.numAttrs = 1;
  TROUPE_CUDA(cudaOccupancyMaxActiveClusters(
      &n_clusters_, reinterpret_cast<const void*>(entry(WeightFormat::kBf16)), &config));
  encode_ = reinterpret_cast<Encode>(find_encode());
}

bool GatedLinear::suits(const Weight& w, int32_t n_tokens) const {
  constexpr int32_t kFewest = 1000;
  const int64_t width = w.rows / 2;
  if (encode_ == nullptr || n_clusters_ == 0 || n_tokens < kFewest || width % 16 != 0 ||
      w.cols * element_bytes(w.format) % kBoxBytes != 0)
    return false;
  // Most clusters are busy to the end.
  const int64_t tiles =
      int64_t{ceil_div(n_tokens, kCluster * kTileTokens)} * ceil_div(width, kTileWidth);
  const int64_t places = int64_t{ceil_div(tiles, n_clusters_)} * n_clusters_;
  const int64_t useful = n_tokens * width;
  return useful * 20 >= places * kCluster * kTileTokens * kTileWidth * 17;
}

const CUtensorMap& GatedLinear::map_of(const void* data, int64_t rows, int64_t cols,
                                       int32_t box_rows, int32_t element_bytes) {
  const auto [it, is_new] = maps_.try_emplace(MapKey{data, rows, cols, box_rows, element_bytes});
  if (!is_new) return it->second;
  const cuuint64_t size[] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
  const cuuint64_t pitch[] = {static_cast<cuuint64_t>(cols * element_bytes)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(kBoxBytes / element_bytes),
                            static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t step[] = {1, 1};
  const CUresult status =
      encode_(&it->second,
              element_bytes == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
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

void GatedLinear::run(__nv_bfloat16* out, const Weight& w, const Activation& x, int32_t n_tokens,
                      cudaStream_t stream) {
  if (n_tokens == 0) return;
  const int64_t width = w.rows / 2;
  const auto bytes = static_cast<int32_t>(element_bytes(w.format));
  const auto* const up = static_cast<const unsigned char*>(w.data) + width * w.cols * bytes;
  GatedArgs args = {};
  args.token_scale = x.token_scale;
  args.channel_scale = w.channel_scale;
  args.n_tokens = n_tokens;
  args.width = static_cast<int32_t>(width);
  args.n_boxes = static_cast<int32_t>(w.cols * bytes / kBoxBytes);
  args.n_pairs = ceil_div(n_tokens, kCluster * kTileTokens);
  args.n_columns = ceil_div(width, kTileWidth);
  const int32_t clusters = std::min(args.n_pairs * args.n_columns, n_clusters_);
  launch(entry(w.format), dim3(static_cast<unsigned>(clusters * kCluster)), dim3(kThreads),
         kSharedBytes, stream, map_of(x.data, n_tokens, w.cols, kTileTokens, bytes),
         map_of(w.data, width, w.cols, kTileWidth, bytes),
         map_of(up, width, w.cols, kTileWidth, bytes),
         map_of(out, n_tokens, width, kTileTokens / kGroups, 2), args);
}

}  // namespace troupe::cuda
