#pragma once

#include "gpu/cuda/hopper.cuh"
#include "gpu/cuda/linear_stream.h"

#include <cuda_bf16.h>

#include <type_traits>

/// Inside of the streaming multiply: the kernel; each source file compiles some variants of it.
namespace troupe::cuda::stream {

constexpr int kBoxBytes = 128;  // of one row: the widest swizzle
constexpr int kMaxStages = 24;

template <WeightFormat F, int kTokens, int kGroups>
struct Layout {
  static constexpr int kWarps = kGroups * 4;  // that multiply; one more fetches
  static constexpr int kMultiplying = kWarps * 32;
  static constexpr int kThreads = kMultiplying + 32;
  static constexpr int kBlocksPerSm = kGroups * kTokens <= 64 ? 2 : 1;  // registers for so many
  static constexpr int kPairs = kTokens / 4;                            // of accumulators a thread
  static constexpr int kTokenBytes = kTokens * kBoxBytes;
  static constexpr int kElements = kBoxBytes / (F == WeightFormat::kFp8 ? 1 : 2);  // of one box
};

/// Where part `i` of `n` of `total` begins.
__device__ inline int part_begin(int total, int i, int n) {
  return total / n * i + min(i, total % n);
}

/// 8 x 8 values of 16 bits, spread over a warp two a thread, transposed.
__device__ inline uint32_t transpose(uint32_t pair) {
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(pair));
  return out;
}

/// Where a warp's 16 rows of a tile go. Accumulators [4j + 0, 1] are tokens 8j + 2 (lane % 4) and
/// the next of row lane / 4, [4j + 2, 3] those of the row 8 below: pair 2j + h is for row 8h.
struct Target {
  int64_t offset;  // of token 0, row 0 of the tile's part
  int32_t rows;    // of the whole output: the pitch
  int32_t rows_left;
  int32_t tokens_left;
};

__device__ inline void store_pair(__nv_bfloat16* out, float2 v, int pair, const Target& t) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const __nv_bfloat162 rounded = __floats2bfloat162_rn(v.x, v.y);
  const uint32_t turned = transpose(*reinterpret_cast<const uint32_t*>(&rounded));
  const int token = pair / 2 * 8 + lane / 4;
  const int row = pair % 2 * 8 + lane % 4 * 2;
  if (token >= t.tokens_left || row >= t.rows_left) return;
  __nv_bfloat16* to = out + t.offset + int64_t{token} * t.rows + row;
  if (t.rows % 2 == 0) {
    *reinterpret_cast<uint32_t*>(to) = turned;
  } else {
    const auto two = *reinterpret_cast<const __nv_bfloat162*>(&turned);
    to[0] = two.x;
    if (row + 1 < t.rows_left) to[1] = two.y;
  }
}

__device__ inline void store_pair(float* out, float2 v, int pair, const Target& t) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int token = pair / 2 * 8 + lane % 4 * 2;
  const int row = pair % 2 * 8 + lane / 4;
  if (row >= t.rows_left) return;
  float* to = out + t.offset + int64_t{token} * t.rows + row;
  if (token < t.tokens_left) to[0] = v.x;
  if (token + 1 < t.tokens_left) to[t.rows] = v.y;
}

/// The ring in shared memory: per stage `boxes` boxes of weights, and further on as many of tokens.
/// A multiply of 64 rows may read past the end of a box of fewer: what it makes of that is not
/// stored.
struct Ring {
  uint8_t* weights;
  uint8_t* tokens;
  int stages;
  int stage = 0;
  uint32_t parity;

  __device__ void advance() {
    if (++stage < stages) return;
    stage = 0;
    parity ^= 1;
  }
};

template <WeightFormat F, int kTokens, int kGroups, class Out>
__global__ __launch_bounds__(
    (Layout<F, kTokens, kGroups>::kThreads),
    (Layout<F, kTokens, kGroups>::kBlocksPerSm)) void multiply(const __grid_constant__ CUtensorMap
                                                                   w_map,
                                                               const __grid_constant__ CUtensorMap
                                                                   x_map,
                                                               const StreamArgs args) {
  using L = Layout<F, kTokens, kGroups>;
  constexpr int kValues = kTokens / 2;
  extern __shared__ uint8_t raw[];
  __shared__ uint64_t full[kMaxStages];
  __shared__ uint64_t empty[kMaxStages];
  __shared__ uint64_t received;  // the others' sums for this block's share are here
  __shared__ uint64_t ready;     // the others have read what was sent to them
  uint8_t* base = raw + (1024 - hopper::shared_address(raw) % 1024) % 1024;
  const int box_bytes = args.tile_rows * kBoxBytes;
  const int stage_weights = args.boxes * box_bytes;
  const int stage_tokens = args.boxes * L::kTokenBytes;
  Ring ring = {base, base + args.stages * stage_weights, args.stages, 0, 0};
  auto* sent = reinterpret_cast<float2*>(ring.tokens + args.stages * stage_tokens);

  const auto rank = static_cast<int>(hopper::cluster_rank());
  const auto size = static_cast<int>(hopper::cluster_size());
  const int share = (L::kPairs + size - 1) / size;  // pairs that a rank adds up; the last ones less
  const int owners = (L::kPairs + share - 1) / share;
  if (threadIdx.x == 0) {
    for (int s = 0; s < args.stages; ++s) {
      hopper::init_barrier(&full[s], 1);
      hopper::init_barrier(&empty[s], L::kWarps);
    }
    hopper::init_barrier(&received, 1);
    // At least one: a block alone never waits for it.
    const int readers = max(owners - (rank < owners ? 1 : 0), 1);
    hopper::init_barrier(&ready, static_cast<uint32_t>(readers * L::kWarps));
    hopper::fence_barrier_init();
  }
  __syncthreads();
  if (size > 1) hopper::cluster_arrive();  // barriers are ready for the others

  const int cluster = static_cast<int>(blockIdx.x) / size;
  const int clusters = static_cast<int>(gridDim.x) / size;
  const int k_begin = part_begin(args.k_stages, rank, size);
  const int k_end = part_begin(args.k_stages, rank + 1, size);

  if (threadIdx.x >= L::kMultiplying) {  // the warp that fetches
    if (threadIdx.x == L::kMultiplying) {
      hopper::prefetch_map(&w_map);
      hopper::prefetch_map(&x_map);
      // One thread keeps the memory busy: nothing is divided in its inner loops.
      const int step = args.boxes * L::kElements;  // columns of a stage
      const auto row_of = [&](int tile) { return tile % args.row_tiles * args.tile_rows; };
      const auto fetch_weights = [&](int row, int column, int s) {
        hopper::arrive_expecting(&full[s], static_cast<uint32_t>(stage_weights + stage_tokens));
        uint8_t* to = ring.weights + s * stage_weights;
        for (int b = 0; b < args.boxes; ++b) {
          hopper::copy_box(to + b * box_bytes, &w_map, column + b * L::kElements, row, &full[s],
                           hopper::kEvictFirst);
        }
      };
      const auto fetch_tokens = [&](int token, int column, int s) {
        uint8_t* to = ring.tokens + s * stage_tokens;
        for (int b = 0; b < args.boxes; ++b) {
          hopper::copy_box(to + b * L::kTokenBytes, &x_map, column + b * L::kElements, token,
                           &full[s], hopper::kEvictLast);
        }
      };
      int left = (k_end - k_begin) * ((args.tiles - cluster + clusters - 1) / clusters);
      if (left <= args.trigger) hopper::launch_dependents();
      int ahead = 0;
      for (int tile = cluster; tile < args.tiles && ahead < args.stages; tile += clusters) {
        const int row = row_of(tile);
        for (int k = k_begin; k < k_end && ahead < args.stages; ++k, ++ahead) {
          fetch_weights(row, k * step, ahead);
        }
      }
      hopper::wait_for_dependencies();  // the tokens come from the kernel before
      ring.parity = 1;                  // of a ring that was never filled
      for (int tile = cluster; tile < args.tiles; tile += clusters) {
        const int row = row_of(tile);
        const int token = tile / args.row_tiles * kTokens;
        for (int k = k_begin; k < k_end; ++k, --left) {
          if (left == args.trigger) hopper::launch_dependents();
          if (ahead > 0) {
            --ahead;
          } else {
            hopper::wait(&empty[ring.stage], ring.parity);
            fetch_weights(row, k * step, ring.stage);
          }
          fetch_tokens(token, k * step, ring.stage);
          ring.advance();
        }
      }
    }
    __syncwarp();
    if (size > 1) {
      hopper::cluster_wait();
      hopper::cluster_arrive();
      hopper::cluster_wait();
    }
    return;
  }

  const int warp = static_cast<int>(threadIdx.x / 32);
  const bool speaker = threadIdx.x % 32 == 0;
  const int my_first = rank * share;
  const int my_last = min(my_first + share, L::kPairs);
  const uint8_t* my_rows = ring.weights + warp / 4 * 64 * kBoxBytes;
  hopper::wait_for_dependencies();  // before anything is written
  if (size > 1) hopper::cluster_wait();
  uint32_t round = 0;
  for (int tile = cluster; tile < args.tiles; tile += clusters, ++round) {
    // Starts the multiplies of one stage; those of the stage before may still run.
    const auto start = [&](float(&d)[kValues], int accumulate) {
      hopper::wait(&full[ring.stage], ring.parity);
      hopper::begin_multiply();
      for (int b = 0; b < args.boxes; ++b) {
        const uint64_t a =
            hopper::tile_descriptor(my_rows + ring.stage * stage_weights + b * box_bytes);
        const uint64_t x =
            hopper::tile_descriptor(ring.tokens + ring.stage * stage_tokens + b * L::kTokenBytes);
#pragma unroll
        for (int step = 0; step < 4; ++step) {
          hopper::Wgmma<F, kTokens>::run(d, a + step * hopper::kNextStep,
                                         x + step * hopper::kNextStep, accumulate);
          accumulate = 1;
        }
      }
      hopper::commit_multiply();
    };
    int last = -1;  // stage in use by multiplies that may still run
    const auto pass_on = [&] {
      if (last >= 0 && speaker) hopper::arrive(&empty[last]);
      last = ring.stage;
      ring.advance();
    };
    float sum[kValues] = {};
    if constexpr (F == WeightFormat::kBf16) {
      for (int k = k_begin; k < k_end; ++k) {
        start(sum, k > k_begin ? 1 : 0);
        hopper::finish_multiply<1>();
        pass_on();
      }
      hopper::finish_multiply<0>(sum);
    } else {
      // The tensor cores add e4m3 products with few bits: sums stay short, and go on in fp32.
      float even[kValues] = {};
      float odd[kValues] = {};
      const auto add = [&](const float(&part)[kValues]) {
#pragma unroll
        for (int i = 0; i < kValues; ++i) sum[i] += part[i];
      };
      int k = k_begin;
      for (; k + 1 < k_end; k += 2) {
        start(even, 0);
        hopper::finish_multiply<1>(odd);
        pass_on();
        if (k > k_begin) add(odd);
        start(odd, 0);
        hopper::finish_multiply<1>(even);
        pass_on();
        add(even);
      }
      if (k < k_end) {
        start(even, 0);
        hopper::finish_multiply<1>(odd);
        pass_on();
        if (k > k_begin) add(odd);
        hopper::finish_multiply<0>(even);
        add(even);
      } else {
        hopper::finish_multiply<0>(odd);
        add(odd);
      }
    }
    if (speaker) hopper::arrive(&empty[last]);

    const int row_of_tile = warp * 16;
    const int row = tile % args.row_tiles * args.tile_rows + row_of_tile;
    const int token = tile / args.row_tiles * kTokens;
    const Target target = {int64_t{token} * args.rows + row, args.rows,
                           min(args.rows - row, args.tile_rows - row_of_tile),
                           args.n_tokens - token};
    auto* out = static_cast<Out*>(args.out);
    if (size == 1) {
#pragma unroll
      for (int p = 0; p < L::kPairs; ++p) {
        store_pair(out, {sum[2 * p], sum[2 * p + 1]}, p, target);
      }
      continue;
    }
    // Every rank adds up its share of the pairs, in the order of the input dimension.
    if (threadIdx.x == 0 && rank < owners) {
      hopper::arrive_expecting(
          &received, static_cast<uint32_t>((size - 1) * (my_last - my_first) * L::kMultiplying) *
                         uint32_t{sizeof(float2)});
    }
    if (round > 0) hopper::wait_cluster(&ready, (round - 1) & 1);
#pragma unroll
    for (int p = 0; p < L::kPairs; ++p) {
      const int owner = p / share;
      if (owner == rank) continue;
      hopper::store_remote(sent + (rank * share + p % share) * L::kMultiplying + threadIdx.x,
                           {sum[2 * p], sum[2 * p + 1]}, &received, static_cast<uint32_t>(owner));
    }
    if (rank >= owners) continue;
    hopper::wait_cluster(&received, round & 1);
#pragma unroll
    for (int p = 0; p < L::kPairs; ++p) {
      if (p < my_first || p >= my_last) continue;
      float2 total = {0.0F, 0.0F};
      for (int from = 0; from < size; ++from) {
        const float2 v = from == rank
                             ? float2{sum[2 * p], sum[2 * p + 1]}
                             : sent[(from * share + p % share) * L::kMultiplying + threadIdx.x];
        total.x += v.x;
        total.y += v.y;
      }
      store_pair(out, total, p, target);
    }
    __syncwarp();
    if (speaker && tile + clusters < args.tiles) {
      for (int other = 0; other < size; ++other) {
        if (other != rank) hopper::arrive_remote(&ready, static_cast<uint32_t>(other));
      }
    }
  }
  if (size > 1) {  // nobody leaves while others may still write to its memory
    hopper::cluster_arrive();
    hopper::cluster_wait();
  }
}

template <WeightFormat F, int kTokens, int kGroups, class Out = __nv_bfloat16>
StreamKernel entry() {
  return {kTokens,
          kGroups,
          F,
          std::is_same_v<Out, float>,
          reinterpret_cast<const void*>(&multiply<F, kTokens, kGroups, Out>),
          Layout<F, kTokens, kGroups>::kThreads};
}

}  // namespace troupe::cuda::stream
