#pragma once

#include "gpu/cuda/hopper.cuh"
#include "gpu/cuda/linear_stream.h"

#include <cuda_bf16.h>

#include <type_traits>

/// Inside of the streaming multiply: the kernel; each source file compiles some variants of it.
namespace troupe::cuda::stream {

constexpr int kBoxBytes = 128;  // of one row: the widest swizzle

template <WeightFormat F, int kTokens, int kRowTile, int kBoxes, int kStages>
struct Layout {
  static constexpr int kWarps = kRowTile / 16;  // that multiply; one more fetches
  static constexpr int kThreads = kWarps * 32 + 32;
  static constexpr int kWeightBytes = kRowTile * kBoxBytes;
  static constexpr int kTokenBytes = kTokens * kBoxBytes;
  static constexpr int kStageBytes = kBoxes * (kWeightBytes + kTokenBytes);
  static constexpr int kSharedBytes = kStages * kStageBytes + 1024;  // + alignment
  static constexpr int kBlocksPerSm = kSharedBytes <= 112 * 1024 && kThreads <= 288 ? 2 : 1;
  static constexpr int kElements = kBoxBytes / (F == WeightFormat::kFp8 ? 1 : 2);  // of one box
};

/// Where a block's part of the work begins.
__host__ __device__ inline int64_t part_begin(int64_t units, int64_t block, int64_t n_blocks) {
  return units / n_blocks * block + min(block, units % n_blocks);
}
/// The block that has unit `u`.
__device__ inline int64_t block_of(int64_t units, int64_t u, int64_t n_blocks) {
  const int64_t each = units / n_blocks;
  const int64_t more = units % n_blocks;
  return u < more * (each + 1) ? u / (each + 1) : more + (u - more * (each + 1)) / each;
}

/// 8 x 8 values of 16 bits, spread over a warp two a thread, transposed.
__device__ inline uint32_t transpose(uint32_t pair) {
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(pair));
  return out;
}

/// One warp's 16 rows x kTokens, in the accumulators' order: [4j + 0, 1] are tokens 8j + 2 (lane %
/// 4) and the next of row lane / 4, [4j + 2, 3] those of the row 8 below.
template <int kTokens>
__device__ void store(__nv_bfloat16* out, const float (&d)[kTokens / 2], int32_t row, int32_t rows,
                      int32_t tokens) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const __nv_bfloat162 pair =
          __floats2bfloat162_rn(d[4 * j + 2 * half], d[4 * j + 2 * half + 1]);
      const uint32_t turned = transpose(*reinterpret_cast<const uint32_t*>(&pair));
      const int32_t token = 8 * j + lane / 4;
      const int32_t r = row + 8 * half + lane % 4 * 2;
      __nv_bfloat16* to = out + int64_t{token} * rows + r;
      if (token >= tokens || r >= rows) continue;
      if (rows % 2 == 0) {
        *reinterpret_cast<uint32_t*>(to) = turned;
      } else {
        const auto two = *reinterpret_cast<const __nv_bfloat162*>(&turned);
        to[0] = two.x;
        if (r + 1 < rows) to[1] = two.y;
      }
    }
  }
}

template <int kTokens>
__device__ void store(float* out, const float (&d)[kTokens / 2], int32_t row, int32_t rows,
                      int32_t tokens) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
#pragma unroll
  for (int i = 0; i < kTokens / 2; ++i) {
    const int32_t token = i / 4 * 8 + lane % 4 * 2 + i % 2;
    const int32_t r = row + i % 4 / 2 * 8 + lane / 4;
    if (token < tokens && r < rows) out[int64_t{token} * rows + r] = d[i];
  }
}

/// Waits until all multiplying threads of the block are here.
template <int kThreads>
__device__ void meet() {
  asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory");
}

/// A tile that several blocks share: writes this block's sums; the last block to come adds all up
/// in their order and returns true with the total in `d`.
template <int kTokens, int kThreads>
__device__ bool combine(float (&d)[kTokens / 2], const StreamArgs& args, int64_t tile,
                        int64_t first_unit, int64_t my_block, uint32_t* last_flag) {
  constexpr int kValues = kTokens / 2;
  constexpr int64_t kSlot = int64_t{kValues} * kThreads;
  const int64_t n_blocks = gridDim.x;
  const int64_t first = block_of(args.units, first_unit, n_blocks);
  const int64_t last = block_of(args.units, first_unit + args.k_blocks - 1, n_blocks);
  // A block has at most one shared tile that began before it and one that begins in it.
  const auto slot = [&](int64_t block) {
    return args.partials + (2 * block + (block == first ? 1 : 0)) * kSlot + threadIdx.x;
  };
  float* mine = slot(my_block);
#pragma unroll
  for (int i = 0; i < kValues; ++i) __stcg(mine + i * kThreads, d[i]);
  __threadfence();
  meet<kThreads>();
  if (threadIdx.x == 0) {
    const uint32_t others = atomicAdd(args.tickets + tile, 1U);
    const bool is_last = others == static_cast<uint32_t>(last - first);
    if (is_last) args.tickets[tile] = 0;
    *last_flag = is_last ? 1 : 0;
    __threadfence();
  }
  meet<kThreads>();
  if (*last_flag == 0) return false;
  float total[kValues] = {};
  for (int64_t block = first; block <= last; ++block) {
    const float* part = slot(block);
#pragma unroll
    for (int i = 0; i < kValues; ++i) total[i] += __ldcg(part + i * kThreads);
  }
#pragma unroll
  for (int i = 0; i < kValues; ++i) d[i] = total[i];
  return true;
}

template <WeightFormat F, int kTokens, int kRowTile, int kBoxes, int kStages, class Out>
__global__ __launch_bounds__(
    Layout<F, kTokens, kRowTile, kBoxes, kStages>::kThreads,
    Layout<F, kTokens, kRowTile, kBoxes,
           kStages>::kBlocksPerSm) void multiply(const __grid_constant__ CUtensorMap w_map,
                                                 const __grid_constant__ CUtensorMap x_map,
                                                 const StreamArgs args) {
  using L = Layout<F, kTokens, kRowTile, kBoxes, kStages>;
  constexpr int kMultiplying = L::kWarps * 32;
  constexpr int kValues = kTokens / 2;
  extern __shared__ uint8_t raw[];
  __shared__ uint64_t full[kStages];
  __shared__ uint64_t empty[kStages];
  __shared__ uint32_t last_flag;
  uint8_t* ring = raw + (1024 - hopper::shared_address(raw) % 1024) % 1024;
  uint8_t* tokens = ring + kStages * kBoxes * L::kWeightBytes;

  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      hopper::init_barrier(&full[s], 1);
      hopper::init_barrier(&empty[s], L::kWarps);
    }
    hopper::fence_barrier_init();
  }
  __syncthreads();
  hopper::launch_dependents();

  const int64_t begin = part_begin(args.units, blockIdx.x, gridDim.x);
  const int64_t end = part_begin(args.units, blockIdx.x + 1, gridDim.x);

  if (threadIdx.x >= kMultiplying) {  // the warp that fetches
    if (threadIdx.x != kMultiplying) return;
    hopper::prefetch_map(&w_map);
    hopper::prefetch_map(&x_map);
    const auto column = [&](int64_t u) {
      return static_cast<int32_t>(u % args.k_blocks) * kBoxes * L::kElements;
    };
    const auto fetch_weights = [&](int64_t u, int s) {
      const int64_t tile = u / args.k_blocks % args.row_tiles;
      hopper::arrive_expecting(&full[s], L::kStageBytes);
#pragma unroll
      for (int b = 0; b < kBoxes; ++b) {
        hopper::copy_box(ring + (s * kBoxes + b) * L::kWeightBytes, &w_map,
                         column(u) + b * L::kElements, static_cast<int32_t>(tile * kRowTile),
                         &full[s], hopper::kEvictFirst);
      }
    };
    const auto fetch_tokens = [&](int64_t u, int s) {
      const int64_t tile = u / args.k_blocks / args.row_tiles;
#pragma unroll
      for (int b = 0; b < kBoxes; ++b) {
        hopper::copy_box(tokens + (s * kBoxes + b) * L::kTokenBytes, &x_map,
                         column(u) + b * L::kElements, static_cast<int32_t>(tile * kTokens),
                         &full[s], hopper::kEvictLast);
      }
    };
    const int64_t ahead = min(end, begin + kStages);
    for (int64_t u = begin; u < ahead; ++u) fetch_weights(u, static_cast<int>(u - begin));
    hopper::wait_for_dependencies();  // the tokens come from the kernel before
    for (int64_t u = begin; u < ahead; ++u) fetch_tokens(u, static_cast<int>(u - begin));
    int s = 0;
    uint32_t parity = 0;
    for (int64_t u = ahead; u < end; ++u) {
      hopper::wait(&empty[s], parity);
      fetch_weights(u, s);
      fetch_tokens(u, s);
      if (++s == kStages) {
        s = 0;
        parity ^= 1;
      }
    }
    return;
  }

  hopper::wait_for_dependencies();  // before anything is written
  const int warp = static_cast<int>(threadIdx.x / 32);
  const uint8_t* my_rows = ring + warp / 4 * 64 * kBoxBytes;
  int s = 0;
  uint32_t parity = 0;
  for (int64_t u = begin; u < end;) {
    const int64_t tile = u / args.k_blocks;
    const int64_t first_unit = tile * args.k_blocks;
    const int64_t stop = min(end, first_unit + args.k_blocks);
    const bool whole = u == first_unit && stop == first_unit + args.k_blocks;
    float sum[kValues] = {};
    float part[kValues] = {};  // fp8: tensor cores add with few bits, so their sums stay short
    for (int accumulate = 0; u < stop; ++u) {
      hopper::wait(&full[s], parity);
      auto& d = F == WeightFormat::kFp8 ? part : sum;
      if (F == WeightFormat::kFp8) accumulate = 0;
      hopper::begin_multiply();
#pragma unroll
      for (int b = 0; b < kBoxes; ++b) {
        const uint64_t a = hopper::tile_descriptor(my_rows + (s * kBoxes + b) * L::kWeightBytes);
        const uint64_t x = hopper::tile_descriptor(tokens + (s * kBoxes + b) * L::kTokenBytes);
#pragma unroll
        for (int step = 0; step < 4; ++step) {
          hopper::Wgmma<F, kTokens>::run(d, a + step * hopper::kNextStep,
                                         x + step * hopper::kNextStep, accumulate);
          accumulate = 1;
        }
      }
      hopper::commit_multiply();
      hopper::finish_multiply(d);
      if (threadIdx.x % 32 == 0) hopper::arrive(&empty[s]);
      if (++s == kStages) {
        s = 0;
        parity ^= 1;
      }
      if (F == WeightFormat::kFp8) {
#pragma unroll
        for (int i = 0; i < kValues; ++i) sum[i] += part[i];
      }
    }
    if (whole ||
        combine<kTokens, kMultiplying>(sum, args, tile, first_unit, blockIdx.x, &last_flag)) {
      const auto row = static_cast<int32_t>(tile % args.row_tiles) * kRowTile + warp * 16;
      const auto token = static_cast<int32_t>(tile / args.row_tiles) * kTokens;
      store<kTokens>(static_cast<Out*>(args.out) + int64_t{token} * args.rows, sum, row, args.rows,
                     args.n_tokens - token);
    }
  }
}

template <WeightFormat F, int kTokens, int kRowTile, int kBoxes, int kStages,
          class Out = __nv_bfloat16>
StreamKernel entry() {
  using L = Layout<F, kTokens, kRowTile, kBoxes, kStages>;
  return {{kTokens, kRowTile, kBoxes, kStages},
          F,
          std::is_same_v<Out, float>,
          reinterpret_cast<const void*>(&multiply<F, kTokens, kRowTile, kBoxes, kStages, Out>),
          L::kThreads,
          L::kSharedBytes};
}

}  // namespace troupe::cuda::stream
