#pragma once

#include "gpu/cuda/attention_wgmma.cuh"
#include "gpu/cuda/hopper.cuh"
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/linear_wide.h"
#include "gpu/cuda/wgmma_wide.cuh"

/// Inside of the wide multiply: the kernel; each source file compiles some variants of it.
namespace troupe::cuda::wide {

constexpr int kGroups = 2;  // warp groups that multiply
constexpr int kMultiplying = 128 * kGroups;
static_assert(kWideThreads == kMultiplying + 128);
constexpr int kTokenBytes = kTileTokens * kBoxBytes;
constexpr int kAlignment = 1024;
constexpr int kMostShared = (227 << 10) - 256;  // less the barriers

/// kN weight rows; a gated block has kN / 2 gate rows and the kN / 2 up rows that belong to them,
/// so that a thread holds both halves of a result.
template <int kN, bool kGated>
struct Layout {
  static constexpr int kHalf = kN / 2;
  static constexpr int kColumns = kGated ? kHalf : kN;
  static constexpr int kHalfBytes = kHalf * kBoxBytes;
  static constexpr int kStageBytes = kTokenBytes + 2 * kHalfBytes;
  static constexpr int kOutBytes = kGated ? 64 * kColumns * 2 : 0;  // of one warp group
  static constexpr int kStages = (kMostShared - kAlignment - kGroups * kOutBytes) / kStageBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes + kGroups * kOutBytes + kAlignment;
};

#ifdef TROUPE_HAS_WGMMA

constexpr int kTogether = 8;  // 1,024 or 2,048 tokens: their activations stay in the L2 cache

/// Tiles in the order of work: all columns for some tiles of tokens, then for the next ones.
struct Tile {
  int32_t tokens;
  int32_t column;
};
__device__ __forceinline__ Tile tile_of(const WideArgs& args, int32_t turn) {
  const int32_t together = kTogether * args.column_tiles;
  const int32_t first = turn / together * kTogether;
  const int32_t n = min(kTogether, args.token_tiles - first);
  return {first + turn % together % n, turn % together / n};
}

/// The box at (byte, row) into the blocks of the cluster that `blocks` has a bit for, at the same
/// place in each.
__device__ __forceinline__ void copy_to_all(void* to, const CUtensorMap* map, int32_t byte,
                                            int32_t row, uint64_t* barrier, uint16_t blocks,
                                            uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5, %6;" ::"r"(
          hopper::shared_address(to)),
      "l"(map), "r"(hopper::shared_address(barrier)), "r"(byte), "r"(row), "h"(blocks), "l"(policy)
      : "memory");
}
__device__ __forceinline__ void copy_own(void* to, const CUtensorMap* map, int32_t byte,
                                         int32_t row, uint64_t* barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(hopper::shared_address(to)),
      "l"(map), "r"(hopper::shared_address(barrier)), "r"(byte), "r"(row), "l"(policy)
      : "memory");
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

template <int kN>
__device__ __forceinline__ void scale_tile(float (&d)[kN / 2], const WideArgs& args, int32_t token,
                                           int32_t column) {
  float of_token[2];
#pragma unroll
  for (int r = 0; r < 2; ++r)
    of_token[r] = token + r * 8 < args.n_tokens ? args.token_scale[token + r * 8] : 0.0F;
#pragma unroll
  for (int i = 0; i < kN / 16; ++i) {
    const int32_t at = column + i * 8;
    if (at >= args.columns) continue;
    const float2 g = *reinterpret_cast<const float2*>(args.channel_scale + at);
    const float2 u = *reinterpret_cast<const float2*>(args.channel_scale + args.columns + at);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      d[i * 4 + r * 2] *= of_token[r] * g.x;
      d[i * 4 + r * 2 + 1] *= of_token[r] * g.y;
      d[kN / 4 + i * 4 + r * 2] *= of_token[r] * u.x;
      d[kN / 4 + i * 4 + r * 2 + 1] *= of_token[r] * u.y;
    }
  }
}

/// silu(gate) * up of a warp group's tile to memory, by way of `results` [64][kN / 2]: there a
/// row's pieces of 16 bytes begin at another place in each row, so that few meet in one bank.
template <int kN, class Sync>
__device__ __forceinline__ void store_gated(const float (&d)[kN / 2], const WideArgs& args,
                                            int32_t token, int32_t column, unsigned char* results,
                                            const Sync& group_sync) {
  constexpr int kRowBytes = kN;  // kN / 2 values
  constexpr int kPieces = kRowBytes / 16;
  const auto place = [&](int row, int piece) {
    return row * kRowBytes + (piece + row) % kPieces * 16;
  };
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int lane = thread % 32;
  group_sync();  // the tile before has been read
#pragma unroll
  for (int i = 0; i < kN / 32; ++i) {
    uint32_t r[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int at = i * 8 + j * 2;
      const float2 v = gate({d[at], d[at + 1]}, {d[kN / 4 + at], d[kN / 4 + at + 1]});
      const __nv_bfloat162 two = __floats2bfloat162_rn(v.x, v.y);
      r[j] = *reinterpret_cast<const uint32_t*>(&two);
    }
    stmatrix_x4(hopper::shared_address(results) +
                    static_cast<uint32_t>(place(thread / 32 * 16 + lane % 16, i * 2 + lane / 16)),
                r[0], r[1], r[2], r[3]);
  }
  group_sync();
  auto* const out = static_cast<__nv_bfloat16*>(args.out);
  for (int i = thread; i < 64 * kPieces; i += 128) {
    const int row = i / kPieces;
    const int piece = i % kPieces;
    if (token + row >= args.n_tokens || column + piece * 8 >= args.columns) continue;
    *reinterpret_cast<uint4*>(out + int64_t{token + row} * args.columns + column + piece * 8) =
        *reinterpret_cast<const uint4*>(results + place(row, piece));
  }
}

__device__ __forceinline__ void meet() {
  asm volatile("bar.sync 1, %0;" ::"n"(kMultiplying) : "memory");
}

/// Of kSplit blocks that have sums over parts of the input dimension for one tile, each gets the
/// totals of one part of the columns, added up in the order of the parts, by way of `sums`
/// [tile and block of a pair][from][to][a thread's values in fours][thread]. They wait for each
/// other: blocks start in order, so the first that have not started need only those before them.
/// `arrivals` is 0 before and after.
template <int kN, int kSplit>
__device__ __forceinline__ void exchange(float (&d)[kN / 2], float4* sums, uint32_t* arrivals,
                                         int part) {
  constexpr int kShare = kN / 2 / kSplit;  // of a thread
  constexpr int kFours = kShare / 4;
  static_assert(kShare % 4 == 0);
  const auto thread = static_cast<int>(threadIdx.x);
  const auto place = [&](int from, int to) {
    return sums + (from * kSplit + to) * kFours * kMultiplying + thread;
  };
#pragma unroll
  for (int to = 0; to < kSplit; ++to) {
    if (to == part) continue;
#pragma unroll
    for (int j = 0; j < kFours; ++j) {
      const float* v = d + to * kShare + j * 4;
      __stcg(place(part, to) + j * kMultiplying, make_float4(v[0], v[1], v[2], v[3]));
    }
  }
  meet();
  if (thread == 0) {
    uint32_t n = 0;
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(arrivals) : "memory");
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(n) : "l"(arrivals) : "memory");
    } while (n < kSplit);
  }
  meet();
#pragma unroll
  for (int to = 0; to < kSplit; ++to) {
    if (to != part) continue;
#pragma unroll
    for (int j = 0; j < kFours; ++j) {
      float* v = d + to * kShare + j * 4;
      const float4 own = make_float4(v[0], v[1], v[2], v[3]);
      float4 of[kSplit];
#pragma unroll
      for (int from = 0; from < kSplit; ++from)
        of[from] = from == part ? own : __ldcg(place(from, to) + j * kMultiplying);
      float4 total = of[0];
#pragma unroll
      for (int from = 1; from < kSplit; ++from) {
        total.x += of[from].x;
        total.y += of[from].y;
        total.z += of[from].z;
        total.w += of[from].w;
      }
      v[0] = total.x, v[1] = total.y, v[2] = total.z, v[3] = total.w;
    }
  }
  meet();
  if (thread == 0) {
    uint32_t n = 0;
    asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], 1;"
                 : "=r"(n)
                 : "l"(arrivals)
                 : "memory");
    if (n == 2 * kSplit - 1) *arrivals = 0;  // all have seen it
  }
}

/// A warp group's results to memory: columns [begin, end) of the tile.
template <int kN>
__device__ __forceinline__ void store_tile(const float (&d)[kN / 2], const WideArgs& args,
                                           int32_t token, int32_t column, int begin, int end) {
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int32_t row = token + thread / 32 * 16 + thread % 32 / 4;
  const int32_t at = column + thread % 4 * 2;
  auto* const out = static_cast<__nv_bfloat16*>(args.out);
#pragma unroll
  for (int i = 0; i < kN / 8; ++i) {
    if (i * 8 < begin || i * 8 >= end || column + i * 8 >= args.columns) continue;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (row + r * 8 < args.n_tokens)
        *reinterpret_cast<__nv_bfloat162*>(out + int64_t{row + r * 8} * args.columns + at + i * 8) =
            __floats2bfloat162_rn(d[i * 4 + r * 2], d[i * 4 + r * 2 + 1]);
    }
  }
}

#endif  // TROUPE_HAS_WGMMA

template <WeightFormat kFormat, int kN, bool kGated>
__global__ void __launch_bounds__(kWideThreads, 1)
    multiply(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap w,
             const __grid_constant__ WideArgs args) {
#ifdef TROUPE_HAS_WGMMA
  using L = Layout<kN, kGated>;
  extern __shared__ unsigned char memory[];
  __shared__ uint64_t full[L::kStages];
  __shared__ uint64_t empty[L::kStages];
  const uint32_t base = hopper::shared_address(memory);
  unsigned char* const ring = memory + (kAlignment - base % kAlignment) % kAlignment;
  const int group = static_cast<int>(threadIdx.x) / 128;
  const auto rank = static_cast<int>(hopper::cluster_rank());  // in the pair
  if (threadIdx.x == 0) {
    for (int s = 0; s < L::kStages; ++s) {
      hopper::init_barrier(&full[s], 1);
      hopper::init_barrier(&empty[s], kPair * kGroups * 4);
    }
    hopper::fence_barrier_init();
    hopper::prefetch_map(&w);
    hopper::prefetch_map(&x);
  }
  hopper::cluster_arrive();
  hopper::cluster_wait();
  release_downstream();
  // Pairs one after the other have the parts of the input dimension of one tile.
  const int32_t split = kGated ? 1 : args.split;
  const int32_t part = kGated ? 0 : static_cast<int32_t>(blockIdx.x) / kPair % split;
  const auto at_once = static_cast<int32_t>(gridDim.x) / kPair / split;  // tiles
  const auto first = static_cast<int32_t>(blockIdx.x) / kPair / split;
  const int32_t turns = args.token_tiles * args.column_tiles;
  const int32_t k_begin = args.n_boxes * part / split;
  const int32_t k_count = args.n_boxes * (part + 1) / split - k_begin;
  const auto token_of = [&](const Tile& t) {
    return (args.shares_weights ? t.tokens * kPair + rank : t.tokens) * kTileTokens;
  };
  const auto column_of = [&](const Tile& t) {
    return (args.shares_weights ? t.column : t.column * kPair + rank) * L::kColumns;
  };
  int stage = 0;
  uint32_t parity = 0;
  const auto next_stage = [&] {
    if (++stage == L::kStages) {
      stage = 0;
      parity ^= 1U;
    }
  };
  if (group == kGroups) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x % 128 == 0) {
      constexpr uint16_t kBoth = 3;
      // Weights that are read once leave the cache to what is read again.
      const uint64_t of_weights =
          args.token_tiles == 1 ? hopper::kEvictFirst : hopper::kEvictNormal;
      const auto fetch_weights = [&](const Tile& t, int32_t box) {
        unsigned char* const to = ring + stage * L::kStageBytes + kTokenBytes;
        const int32_t row = column_of(t);
        const int32_t second = kGated ? args.columns : L::kHalf;  // rows from one half to the other
        const int32_t byte = (k_begin + box) * kBoxBytes;
        hopper::arrive_expecting(&full[stage], L::kStageBytes);
        if (args.shares_weights) {
          copy_to_all(to + rank * L::kHalfBytes, &w, byte, row + rank * second, &full[stage], kBoth,
                      of_weights);
        } else {
          copy_own(to, &w, byte, row, &full[stage], of_weights);
          copy_own(to + L::kHalfBytes, &w, byte, row + second, &full[stage], of_weights);
        }
      };
      const auto fetch_tokens = [&](const Tile& t, int32_t box) {
        constexpr int kPart = kTokenBytes / 2;
        unsigned char* const to = ring + stage * L::kStageBytes;
        const int32_t token = token_of(t);
        const int32_t byte = (k_begin + box) * kBoxBytes;
        if (args.shares_weights) {
          copy_own(to, &x, byte, token, &full[stage], hopper::kEvictNormal);
          copy_own(to + kPart, &x, byte, token + 64, &full[stage], hopper::kEvictNormal);
        } else {
          copy_to_all(to + rank * kPart, &x, byte, token + rank * 64, &full[stage], kBoth,
                      hopper::kEvictNormal);
        }
      };
      // Weights are there before the step.
      const int32_t ahead = min(L::kStages, k_count);
      const Tile first_tile = tile_of(args, first);
      for (stage = 0; stage < ahead; ++stage) fetch_weights(first_tile, stage);
      wait_for_upstream();
      for (stage = 0; stage < ahead; ++stage) fetch_tokens(first_tile, stage);
      if (stage == L::kStages) {
        stage = 0;
        parity = 1;
      }
      for (int32_t turn = first; turn < turns; turn += at_once) {
        const Tile tile = tile_of(args, turn);
        for (int32_t box = turn == first ? ahead : 0; box < k_count; ++box) {
          hopper::wait(&empty[stage], parity ^ 1U);  // in both blocks
          fetch_weights(tile, box);
          fetch_tokens(tile, box);
          next_stage();
        }
      }
    }
    __syncwarp();
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int thread = static_cast<int>(threadIdx.x) % 128;
    const int lane = thread % 32;
    const uint32_t empty_of_lane = hopper::remote_address(empty, static_cast<uint32_t>(lane % 2));
    const auto release = [&](int s) {
      if (lane < kPair) arrive_in_cluster(empty_of_lane + static_cast<uint32_t>(s) * 8);
    };
    wait_for_upstream();
    float d[kN / 2];
    for (int32_t turn = first; turn < turns; turn += at_once) {
      const Tile tile = tile_of(args, turn);
      int last = 0;
      for (int32_t box = 0; box < k_count; ++box) {
        const unsigned char* const from = ring + stage * L::kStageBytes;
        const uint64_t a = hopper::tile_descriptor(from + group * (kTokenBytes / kGroups));
        const uint64_t b = hopper::tile_descriptor(from + kTokenBytes);
        hopper::wait(&full[stage], parity);
        hopper::begin_multiply();
#pragma unroll
        for (int step = 0; step < kBoxBytes / 32; ++step)
          hopper::WideWgmma<kFormat, kN>::run(
              d, a + static_cast<uint64_t>(step) * hopper::kNextStep,
              b + static_cast<uint64_t>(step) * hopper::kNextStep, box + step > 0 ? 1 : 0);
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
      const int32_t token = token_of(tile) + group * 64;
      const int32_t column = column_of(tile);
      if constexpr (kGated) {
        if constexpr (kFormat == WeightFormat::kFp8)
          scale_tile<kN>(d, args, token + thread / 32 * 16 + lane / 4, column + lane % 4 * 2);
        store_gated<kN>(d, args, token, column,
                        ring + L::kStages * L::kStageBytes + group * L::kOutBytes, [&] {
                          asm volatile("bar.sync %0, 128;" ::"r"(1 + group) : "memory");
                        });
      } else {
        constexpr int kFours = kTileTokens * kN / 4;  // of a block
        const int32_t place = turn * kPair + rank;
        float4* const sums = args.sums + int64_t{place} * split * kFours;
        if (split == 2) exchange<kN, 2>(d, sums, args.arrivals + place, part);
        if (split == 4) exchange<kN, 4>(d, sums, args.arrivals + place, part);
        store_tile<kN>(d, args, token, column, part * (kN / split), (part + 1) * (kN / split));
      }
    }
    __syncwarp();
  }
  // Nobody leaves while another block may still reach into its memory.
  hopper::cluster_arrive();
  hopper::cluster_wait();
#else
  __trap();
#endif
}

template <WeightFormat F, int kN, bool kGated>
WideKernel entry() {
  return {kN, F, reinterpret_cast<const void*>(&multiply<F, kN, kGated>),
          Layout<kN, kGated>::kSharedBytes};
}

}  // namespace troupe::cuda::wide
