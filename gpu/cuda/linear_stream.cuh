#pragma once

#include "gpu/cuda/attention_ptx.cuh"
#include "gpu/cuda/hopper.cuh"
#include "gpu/cuda/linear_stream.h"

#include <cuda_bf16.h>

#include <type_traits>

/// Inside of the streaming multiply: the kernel; each source file compiles some variants of it.
namespace troupe::cuda::stream {

constexpr int kBoxBytes = 128;  // of one row: the widest swizzle
constexpr int kMaxStages = 24;

/// A block multiplies a tile of kRows weight rows by kTokens tokens with eight warps; one more
/// fetches. Few tokens go through warp-wide multiplies of 16 rows, more through those of warp
/// groups of 64. Warps that have the same rows share the boxes of the input dimension in turn.
template <WeightFormat F, int kTokens, int kRows>
struct Layout {
  static constexpr bool kGroups = kTokens > 16;
  static constexpr int kWarps = 8;
  static constexpr int kMultiplying = kWarps * 32;
  static constexpr int kThreads = kMultiplying + 32;
  static constexpr int kRowGroups = kRows / (kGroups ? 64 : 16);
  static constexpr int kParts = (kGroups ? 2 : 8) / kRowGroups;  // of the input dimension
  static constexpr int kValues = kTokens / 2;                    // sums of a thread
  static constexpr int kSums = kValues * (kGroups && F == WeightFormat::kFp8 ? 2 : 1);
  static constexpr int kBlocksPerSm = kSums <= 4 ? 3 : 2;
  static constexpr int kRowBytes = kRows * kBoxBytes;  // a box
  static constexpr int kTokenBytes = kTokens * kBoxBytes;
  static constexpr int kPitch = kRows + 4;  // of sums in shared memory: no bank conflicts
  static_assert(kRowGroups * kParts == (kGroups ? 2 : 8));
};

/// Where part `i` of `n` of `total` begins.
__device__ inline int part_begin(int total, int i, int n) {
  return total / n * i + min(i, total % n);
}

/// d[16 rows, 8 tokens] += a[16, 32 bytes] * b[8, 32 bytes]^T.
template <WeightFormat F>
__device__ inline void multiply_step(float* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (F == WeightFormat::kBf16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

/// sum += 16 rows of a box of weights times a box of tokens, by one warp. The copy engine's swizzle
/// puts chunk c of 16 bytes of row r at chunk c ^ (r % 8).
template <WeightFormat F, int kTokens>
__device__ inline void multiply_box(float (&sum)[kTokens / 2], const uint8_t* rows,
                                    const uint8_t* tokens, int n_tokens, int box) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t a_row = hopper::shared_address(rows) + (lane % 16) * kBoxBytes;
  // Boxes of fewer than eight tokens lie dense: the swizzle runs on over them.
  const uint32_t token = kTokens == 8 ? min(lane % 8, n_tokens - 1U) : lane % 8;
  const uint32_t phase = kTokens == 8 ? (token + box * n_tokens) % 8 : token;
  const uint32_t b_row = hopper::shared_address(tokens) + token * kBoxBytes;
  // The tensor cores add e4m3 products with few bits: their sums stay short, and go on in fp32.
  float fresh[kTokens / 2] = {};
  auto& d = F == WeightFormat::kFp8 ? fresh : sum;
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    uint32_t b[kTokens / 8][4];
#pragma unroll
    for (int t = 0; t < kTokens / 8; ++t)
      ldmatrix_x4(b[t], b_row + t * 8 * kBoxBytes + ((half * 4 + lane / 8) ^ phase) * 16);
#pragma unroll
    for (uint32_t step = 0; step < 2; ++step) {
      uint32_t a[4];
      ldmatrix_x4(a, a_row + (((half * 2 + step) * 2 + lane / 16) ^ lane % 8) * 16);
#pragma unroll
      for (int t = 0; t < kTokens / 8; ++t)
        multiply_step<F>(d + t * 4, a, b[t][step * 2], b[t][step * 2 + 1]);
    }
  }
  if constexpr (F == WeightFormat::kFp8) {
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) sum[i] += fresh[i];
  }
}

/// Two neighbouring rows of one token; `left` of them exist. `pitch`: rows of the whole output.
__device__ inline void store_pair(__nv_bfloat16* to, float2 v, int pitch, int left) {
  if (pitch % 2 == 0) {
    *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(v.x, v.y);
    return;
  }
  to[0] = __float2bfloat16_rn(v.x);
  if (left > 1) to[1] = __float2bfloat16_rn(v.y);
}
__device__ inline void store_pair(float* to, float2 v, int pitch, int left) {
  if (pitch % 2 == 0) {
    *reinterpret_cast<float2*>(to) = v;
    return;
  }
  to[0] = v.x;
  if (left > 1) to[1] = v.y;
}

/// The ring in shared memory: per stage `boxes` boxes of weights, then as many of tokens.
struct Ring {
  uint8_t* base;
  int stages;
  int stage_bytes;
  int tokens_at;  // in a stage
  int stage = 0;
  uint32_t parity = 0;

  [[nodiscard]] __device__ uint8_t* weights(int s) const { return base + s * stage_bytes; }
  [[nodiscard]] __device__ uint8_t* tokens(int s) const { return weights(s) + tokens_at; }
  __device__ void advance() {
    if (++stage < stages) return;
    stage = 0;
    parity ^= 1;
  }
};

template <WeightFormat F, int kTokens, int kRows, class Out>
__global__ __launch_bounds__(
    (Layout<F, kTokens, kRows>::kThreads),
    (Layout<F, kTokens, kRows>::kBlocksPerSm)) void multiply(const __grid_constant__ CUtensorMap
                                                                 w_map,
                                                             const __grid_constant__ CUtensorMap
                                                                 x_map,
                                                             const StreamArgs args) {
  using L = Layout<F, kTokens, kRows>;
  extern __shared__ uint8_t raw[];
  __shared__ uint64_t full[kMaxStages];
  __shared__ uint64_t empty[kMaxStages];
  __shared__ int tile_of[kMaxStages];  // of stages that begin a tile; -1: no more
  uint8_t* base = raw + (1024 - hopper::shared_address(raw) % 1024) % 1024;
  // Fewer than eight tokens come without rows for the missing ones.
  const int token_bytes = (kTokens == 8 ? min(args.n_tokens, 8) : kTokens) * kBoxBytes;
  const int copied_bytes = args.boxes * (L::kRowBytes + token_bytes);
  Ring ring = {base, args.stages, args.stage_bytes, args.boxes * L::kRowBytes};
  if (threadIdx.x == 0) {
    for (int s = 0; s < args.stages; ++s) {
      hopper::init_barrier(&full[s], 1);
      hopper::init_barrier(&empty[s], L::kWarps);
    }
    hopper::fence_barrier_init();
  }
  __syncthreads();

  const auto rank = static_cast<int>(hopper::cluster_rank());
  const auto size = static_cast<int>(hopper::cluster_size());
  const int k_begin = part_begin(args.k_stages, rank, size);
  const int n = part_begin(args.k_stages, rank + 1, size) - k_begin;  // stages of a tile

  if (threadIdx.x >= L::kMultiplying) {  // the warp that fetches
    if (threadIdx.x == L::kMultiplying) {
      hopper::launch_dependents();
      int tile = static_cast<int>(blockIdx.x) / size;
      const auto fetch_weights = [&](int i, int s) {
        if (i == 0) tile_of[s] = tile;
        hopper::arrive_expecting(&full[s], static_cast<uint32_t>(copied_bytes));
        hopper::copy_box(ring.weights(s), &w_map, tile / args.token_tiles * kRows,
                         (k_begin + i) * args.boxes, &full[s], hopper::kEvictFirst);
      };
      int ahead = min(n, args.stages);
      for (int i = 0; i < ahead; ++i) fetch_weights(i, i);
      hopper::wait_for_dependencies();  // the tokens come from the kernel before
      ring.parity = 1;                  // of a ring that was never filled
      while (true) {
        // Asked for now, looked at when this tile has been fetched.
        const int next = args.counter == nullptr
                             ? args.tiles
                             : static_cast<int>(gridDim.x + atomicAdd(args.counter, 1U));
        for (int i = 0; i < n; ++i) {
          const int s = ring.stage;
          if (ahead > 0) {
            --ahead;
          } else {
            hopper::wait(&empty[s], ring.parity);
            fetch_weights(i, s);
          }
          hopper::copy_box(ring.tokens(s), &x_map, tile % args.token_tiles * kTokens,
                           (k_begin + i) * args.boxes, &full[s], hopper::kEvictLast);
          ring.advance();
        }
        if (next >= args.tiles) break;
        tile = next;
      }
      if (args.counter != nullptr) {
        hopper::wait(&empty[ring.stage], ring.parity);
        tile_of[ring.stage] = -1;
        hopper::arrive(&full[ring.stage]);
        // Whoever comes last leaves the counters as they were.
        if (atomicAdd(args.counter + 1, 1U) == gridDim.x - 1) {
          args.counter[0] = 0;
          args.counter[1] = 0;
        }
      }
    }
    __syncwarp();
    if (size > 1) {
      hopper::cluster_arrive();
      hopper::cluster_wait();
      hopper::cluster_arrive();
      hopper::cluster_wait();
    }
    return;
  }

  // Broadcast, so that the compiler knows it to be the same in all lanes.
  const int warp = __shfl_sync(~0U, static_cast<int>(threadIdx.x / 32), 0);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int group = L::kGroups ? warp / 4 : warp;
  const int part = group / L::kRowGroups;
  const int group_row = group % L::kRowGroups * (L::kGroups ? 64 : 16);
  do {
    int tile = 0;
    float sum[L::kValues] = {};
    for (int i = 0; i < n; ++i) {
      hopper::wait(&full[ring.stage], ring.parity);
      if (i == 0) tile = tile_of[ring.stage];
      if (tile < 0) break;
      const uint8_t* rows = ring.weights(ring.stage) + group_row * kBoxBytes;
      const uint8_t* tokens = ring.tokens(ring.stage);
      if constexpr (L::kGroups) {
        const auto multiply_boxes = [&](float(&d)[L::kValues], int accumulate) {
          hopper::begin_multiply();
          for (int b = part; b < args.boxes; b += L::kParts) {
            const uint64_t w = hopper::tile_descriptor(rows + b * L::kRowBytes);
            const uint64_t x = hopper::tile_descriptor(tokens + b * L::kTokenBytes);
#pragma unroll
            for (int step = 0; step < 4; ++step) {
              hopper::Wgmma<F, kTokens>::run(d, w + step * hopper::kNextStep,
                                             x + step * hopper::kNextStep, accumulate);
              accumulate = 1;
            }
          }
          hopper::commit_multiply();
          hopper::finish_multiply<0>(d);
        };
        if constexpr (F == WeightFormat::kFp8) {
          float fresh[L::kValues];
          multiply_boxes(fresh, 0);
#pragma unroll
          for (int v = 0; v < L::kValues; ++v) sum[v] += fresh[v];
        } else {
          multiply_boxes(sum, 1);
        }
      } else {
        // A stage of fewer boxes than parts leaves some warps without one.
        const int first = (part - (k_begin + i) * args.boxes) & (L::kParts - 1);
        for (int b = first; b < args.boxes; b += L::kParts)
          multiply_box<F, kTokens>(sum, rows + b * L::kRowBytes, tokens + b * token_bytes,
                                   token_bytes / kBoxBytes, b);
        __syncwarp();
      }
      if (lane == 0) hopper::arrive(&empty[ring.stage]);
      ring.advance();
    }
    if (tile < 0) break;
    const int row_begin = tile / args.token_tiles * kRows;
    const int token_begin = tile % args.token_tiles * kTokens;

    // Sums go to shared memory, [part][token][row], and are added up in that order, first the
    // block's own, then the cluster's in the order of the input dimension.
    const auto meet = [] { asm volatile("bar.sync 1, %0;" ::"n"(L::kMultiplying) : "memory"); };
    auto* sums = reinterpret_cast<float*>(base + args.sums_at);
    constexpr int kPartSums = kTokens * L::kPitch;
    meet();
    const int my_row = group_row + (L::kGroups ? warp % 4 * 16 : 0) + lane / 4;
#pragma unroll
    for (int v = 0; v < L::kValues; ++v) {
      const int token = v / 4 * 8 + lane % 4 * 2 + v % 2;
      sums[part * kPartSums + token * L::kPitch + my_row + v % 4 / 2 * 8] = sum[v];
    }
    meet();
    const int tokens_left = min(args.n_tokens - token_begin, kTokens);
    const int pairs = tokens_left * (kRows / 2);
    const auto place = [&](int i) { return i / (kRows / 2) * L::kPitch + i % (kRows / 2) * 2; };
    const auto store = [&](int i, float2 v) {
      const int row = row_begin + i % (kRows / 2) * 2;
      if (row >= args.rows) return;
      auto* out =
          static_cast<Out*>(args.out) + int64_t{token_begin + i / (kRows / 2)} * args.rows + row;
      store_pair(out, v, args.rows, args.rows - row);
    };
    for (int i = static_cast<int>(threadIdx.x); i < pairs; i += L::kMultiplying) {
      float2* at = reinterpret_cast<float2*>(sums + place(i));
      float2 total = at[0];
#pragma unroll
      for (int p = 1; p < L::kParts; ++p) {
        const float2 v = at[p * kPartSums / 2];
        total.x += v.x;
        total.y += v.y;
      }
      if (size == 1)
        store(i, total);
      else
        *at = total;
    }
    if (size > 1) {
      hopper::cluster_arrive();
      hopper::cluster_wait();
      for (int i = static_cast<int>(threadIdx.x) + rank * L::kMultiplying; i < pairs;
           i += size * L::kMultiplying) {
        float2 v[kMaxCluster];
#pragma unroll
        for (int r = 0; r < kMaxCluster; ++r)
          if (r < size) v[r] = hopper::load_remote(sums + place(i), static_cast<uint32_t>(r));
        float2 total = v[0];
#pragma unroll
        for (int r = 1; r < kMaxCluster; ++r) {
          if (r >= size) continue;
          total.x += v[r].x;
          total.y += v[r].y;
        }
        store(i, total);
      }
      hopper::cluster_arrive();  // nobody leaves while others may still read its memory
      hopper::cluster_wait();
    }
  } while (args.counter != nullptr);
}

template <WeightFormat F, int kTokens, int kRows, class Out = __nv_bfloat16>
StreamKernel entry() {
  using L = Layout<F, kTokens, kRows>;
  return {kTokens,
          kRows,
          F,
          std::is_same_v<Out, float>,
          reinterpret_cast<const void*>(&multiply<F, kTokens, kRows, Out>),
          L::kThreads,
          L::kParts * kTokens * L::kPitch * 4};
}

}  // namespace troupe::cuda::stream
