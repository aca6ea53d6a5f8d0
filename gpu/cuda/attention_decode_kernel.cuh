#pragma once

#include "gpu/cuda/attention_decode_walk.cuh"

/// Decode attention. Each warp streams its slices of a tile (K and V rows of arbitrary slots)
/// through a private ring of shared memory by cp.async and never meets the other warps before the
/// end of a segment, a run of tiles of one (row, KV head). Scores are computed transposed, S^T =
/// K Q^T and O^T = V^T P^T, so that the heads of a group fill the 8 columns of an mma tile.
namespace troupe::cuda::decode {

template <class Kv, int kHeadDim, int kHeadTiles>
struct Decode {
  using Traits = KvTraits<Kv>;
  using Mma = typename Traits::Mma;
  static constexpr bool kFp8 = Traits::kFormat == KvFormat::kFp8;
  // Twice the warps hide the latency of fp8's conversions; G > 8 needs their registers.
  static constexpr int kWarps = kFp8 && kHeadTiles == 1 ? 8 : 4;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kTile = tile_tokens(Traits::kFormat, kHeadDim);
  static constexpr int kSlice = kTile / kWarps;
  static constexpr int kHalfBytes = kHeadDim * static_cast<int>(sizeof(Kv));  // K or V of a slot
  static constexpr int kRowBytes = 2 * kHalfBytes;
  static constexpr int kChunks = kRowBytes / 16;
  static constexpr int kSliceBytes = kSlice * kRowBytes;
  static constexpr int kStages = 98304 / kWarps / kSliceBytes;
  static constexpr int kRingBytes = kWarps * kStages * kSliceBytes;
  static constexpr int kMergeWarps = 4;  // the others hand their share to one of these
  static constexpr int kMergeBytes = kMergeWarps * 8 * kHeadDim * 4;
  static constexpr int kSharedBytes = kRingBytes + kMergeBytes + kMergeWarps * 8 * 8 + 16;
  static constexpr int kTokenTiles = kSlice / 16;
  static constexpr int kDimTiles = kHeadDim / 16;
  // Of log2; f16 weights up to 256 are as precise, but the largest bf16 one has to be exactly 1.
  static constexpr float kFarAbove = kFp8 ? 8 : 0;
  static_assert(kStages >= 3 && kSharedBytes <= 115712, "two blocks per multiprocessor");

  const Params& p;
  unsigned char* shared;
  // Broadcast, so that the compiler knows it to be the same in all lanes.
  int warp = __shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0);
  int lane = static_cast<int>(threadIdx.x) % 32;
  uint32_t ring;

  uint32_t query[kDimTiles][kHeadTiles][2];
  float acc[kDimTiles][kHeadTiles][4];
  float max[kHeadTiles][2];  // the reference of heads 2 (lane % 4) + {0, 1}, in units of log2
  float sum[kHeadTiles][2];  // this lane's share

  __device__ Decode(const Params& params, unsigned char* memory)
      : p(params),
        shared(memory),
        ring(shared_address(memory) + static_cast<uint32_t>(warp * kStages * kSliceBytes)) {}

  /// Positions [low, high) of the warp's slice are visible.
  struct Visible {
    int first;
    int low;
    int high;
  };
  [[nodiscard]] __device__ Visible visible(const Walk& w) const {
    Visible v;
    v.first = w.plan.begin + w.tile * kTile + warp * kSlice;
    v.high = min(w.plan.context - v.first, kSlice);
    v.low = p.window > 0 ? max_int(w.plan.context - p.window - v.first, 0) : 0;
    return v;
  }
  static __device__ int max_int(int a, int b) { return a > b ? a : b; }

  /// The slot of position first + lane, 0 where nothing is to be read.
  [[nodiscard]] __device__ int32_t load_slot(const Walk& w) const {
    if (w.done()) return 0;
    const Visible v = visible(w);
    if (lane < v.low || lane >= v.high) return 0;
    return __ldg(p.slots + w.plan.table_row * p.slots_stride + v.first + lane);
  }

  /// Starts the copies of the slice at w into `stage`; rows that are not visible become zeros, so
  /// that nothing an unused slot holds can reach the sums.
  __device__ void start_copy(const Walk& w, int32_t slot, int stage) const {
    if (!w.done()) {
      const Visible v = visible(w);
      if (v.low < v.high) {
        constexpr int kTokens = 32 / kChunks;  // of one instruction
        const int thread = opaque(lane);
        const int chunk = thread % kChunks;
        const auto* head = static_cast<const unsigned char*>(p.kv) +
                           static_cast<int64_t>(w.head) * kRowBytes + chunk * 16;
        const auto slot_bytes = static_cast<uint32_t>(p.n_kv_heads * kRowBytes);
        const uint32_t to = ring + static_cast<uint32_t>(stage * kSliceBytes);
        const int sub = thread / kChunks;
        const uint32_t base = row_address(to, sub, chunk);
        const auto copy = [&](auto bytes_of) {
#pragma unroll
          for (int i = 0; i < kSlice / kTokens; ++i) {
            const int t = i * kTokens + sub;
            const auto s = static_cast<uint32_t>(__shfl_sync(~0U, slot, t));
            cp_async16((base ^ ((i * kTokens % 8) * 16U)) + i * kTokens * kRowBytes,
                       head + uint64_t{s} * slot_bytes, bytes_of(t));
          }
        };
        if (v.low == 0 && v.high == kSlice)
          copy([](int /*t*/) { return 16U; });
        else
          copy([&](int t) { return t >= v.low && t < v.high ? 16U : 0U; });
      }
    }
    cp_async_commit();
  }

  /// Chunk c of token t of a slice lies at t * kRowBytes + 16 (c ^ (t % 8)), so that the eight rows
  /// of an ldmatrix fall into different banks. As slices are aligned, the address of chunk
  /// c = even + low is that of chunk `low` with 16 * even flipped in.
  static __device__ uint32_t row_address(uint32_t slice, int t, int low) {
    return slice + static_cast<uint32_t>(t * kRowBytes + ((low ^ (t & 7)) * 16));
  }

  /// Starts to load the queries of w's segment; begin_segment() makes them ready.
  __device__ void load_query(const Walk& w) {
    if (w.done()) return;
    const int thread = opaque(lane);
    const int g = thread / 4;
    const int c = thread % 4;
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) {
      const int head = n * 8 + g;
      const bool used = head < p.group;
      const auto* q =
          p.q + (static_cast<int64_t>(w.row) * p.n_heads + w.head * p.group + (used ? head : 0)) *
                    kHeadDim;
#pragma unroll
      for (int k = 0; k < kDimTiles; ++k) {
        if constexpr (kFp8) {  // dimensions 4c .. 4c+3, in the order that K's bytes arrive in
          const uint2 x = used ? *reinterpret_cast<const uint2*>(q + k * 16 + c * 4) : uint2{0, 0};
          query[k][n][0] = x.x;
          query[k][n][1] = x.y;
        } else {
          const auto* x = reinterpret_cast<const uint32_t*>(q + k * 16 + c * 2);
          query[k][n][0] = used ? x[0] : 0;
          query[k][n][1] = used ? x[4] : 0;
        }
      }
    }
  }
  __device__ void begin_segment() {
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) {
#pragma unroll
      for (int k = 0; k < kDimTiles; ++k) {
        if constexpr (kFp8) {
          query[k][n][0] = bf16_to_f16(query[k][n][0]);
          query[k][n][1] = bf16_to_f16(query[k][n][1]);
        }
#pragma unroll
        for (float& a : acc[k][n]) a = 0;
      }
      max[n][0] = max[n][1] = -INFINITY;
      sum[n][0] = sum[n][1] = 0;
    }
  }

  /// Tokens 16 t .. 16 t + 15 of K as the left operand, dimension tiles k and k + 1 when fp8.
  __device__ void scores(float (&s)[kTokenTiles][kHeadTiles][4], uint32_t slice) const {
    const int thread = opaque(lane);
    const int m = thread / 8;
#pragma unroll
    for (int t = 0; t < kTokenTiles; ++t) {
      const uint32_t base = row_address(slice, t * 16 + thread % 8 + (m & 1) * 8, m >> 1);
      if constexpr (kFp8) {
#pragma unroll
        for (int k = 0; k < kDimTiles; k += 2) {
          uint32_t r[4];
          ldmatrix_x4(r, base ^ (k * 16U));
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            uint32_t a[4];
            e4m3_to_f16(a[0], a[2], r[2 * j]);
            e4m3_to_f16(a[1], a[3], r[2 * j + 1]);
#pragma unroll
            for (int n = 0; n < kHeadTiles; ++n)
              mma_16816(s[t][n], a, query[k + j][n][0], query[k + j][n][1], Mma());
          }
        }
      } else {
#pragma unroll
        for (int k = 0; k < kDimTiles; ++k) {
          uint32_t a[4];
          ldmatrix_x4(a, base ^ (k * 32U));
#pragma unroll
          for (int n = 0; n < kHeadTiles; ++n)
            mma_16816(s[t][n], a, query[k][n][0], query[k][n][1], Mma());
        }
      }
    }
  }

  /// acc += V^T P^T; weights[t][n] is P^T as the right operand.
  __device__ void accumulate(const uint32_t (&weights)[kTokenTiles][kHeadTiles][2],
                             uint32_t slice) {
    const int thread = opaque(lane);
    const int m = thread / 8;
#pragma unroll
    for (int t = 0; t < kTokenTiles; ++t) {
      if constexpr (kFp8) {
        const uint32_t base = row_address(slice, t * 16 + thread % 8 + (m & 1) * 8, m >> 1);
#pragma unroll
        for (int d = 0; d < kDimTiles; d += 2) {
          uint32_t r[4];  // a 16-bit element is two dimensions of one token
          ldmatrix_x4_trans(r, base ^ (kHalfBytes + d * 16U));
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            uint32_t a[4];
            e4m3_to_f16(a[0], a[1], __byte_perm(r[2 * j], 0, 0x3120));
            e4m3_to_f16(a[2], a[3], __byte_perm(r[2 * j + 1], 0, 0x3120));
#pragma unroll
            for (int n = 0; n < kHeadTiles; ++n)
              mma_16816(acc[d + j][n], a, weights[t][n][0], weights[t][n][1], Mma());
          }
        }
      } else {
        const uint32_t base = row_address(slice, t * 16 + thread % 8 + (m >> 1) * 8, m & 1);
#pragma unroll
        for (int d = 0; d < kDimTiles; ++d) {
          uint32_t a[4];
          ldmatrix_x4_trans(a, base ^ (kHalfBytes + d * 32U));
#pragma unroll
          for (int n = 0; n < kHeadTiles; ++n)
            mma_16816(acc[d][n], a, weights[t][n][0], weights[t][n][1], Mma());
        }
      }
    }
  }

  /// Makes the largest score so far, `most` among them, the reference of head tile n.
  __device__ void raise(int n, const float (&most)[2]) {
    float keep[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float next = fmaxf(max[n][j], most[j]);
#pragma unroll
      for (int o = 4; o < 32; o *= 2) next = fmaxf(next, __shfl_xor_sync(~0U, next, o));
      keep[j] = fast_exp2(max[n][j] - next);  // at least one token is visible: not -inf
      max[n][j] = next;
      sum[n][j] *= keep[j];
    }
#pragma unroll
    for (int d = 0; d < kDimTiles; ++d) {
#pragma unroll
      for (int i = 0; i < 4; ++i) acc[d][n][i] *= keep[i & 1];
    }
  }

  __device__ void compute(const Walk& w, int stage) {
    const Visible v = visible(w);
    if (v.low >= v.high) return;
    const uint32_t slice = ring + static_cast<uint32_t>(stage * kSliceBytes);
    float s[kTokenTiles][kHeadTiles][4] = {};
    scores(s, slice);
    const bool all = v.low == 0 && v.high == kSlice;
    uint32_t weights[kTokenTiles][kHeadTiles][2];
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) {
      if (!all) {
#pragma unroll
        for (int t = 0; t < kTokenTiles; ++t) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int token = t * 16 + lane / 4 + (i / 2) * 8;
            if (token < v.low || token >= v.high) s[t][n][i] = -INFINITY;
          }
        }
      }
      // Only when a score is far above the reference are all sums rescaled (FlashAttention-4).
      float most[2] = {-INFINITY, -INFINITY};
#pragma unroll
      for (int t = 0; t < kTokenTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) most[i & 1] = fmaxf(most[i & 1], s[t][n][i]);
      }
      most[0] *= p.score_scale;
      most[1] *= p.score_scale;
      const bool far = most[0] > max[n][0] + kFarAbove || most[1] > max[n][1] + kFarAbove;
      if (__any_sync(~0U, far)) raise(n, most);
#pragma unroll
      for (int t = 0; t < kTokenTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          s[t][n][i] = fast_exp2(fmaf(s[t][n][i], p.score_scale, -max[n][i & 1]));
          sum[n][i & 1] += s[t][n][i];
        }
        weights[t][n][0] = movmatrix_trans(pack2(s[t][n][0], s[t][n][1], Mma()));
        weights[t][n][1] = movmatrix_trans(pack2(s[t][n][2], s[t][n][3], Mma()));
      }
    }
    accumulate(weights, slice);
  }

  // --- end of a segment --------------------------------------------------------------------------

  __device__ float* merge_buffer() const { return reinterpret_cast<float*>(shared + kRingBytes); }
  /// Where dimension d of head h (0..7) of warp w lies; the xor spreads heads over the banks.
  static __device__ int merge_at(int w, int h, int d) {
    return (w * 8 + h) * kHeadDim + (d ^ (((h >> 1) & 3) * 8));
  }

  __device__ float2* merge_max_sum() const {  // [kMergeWarps][8]
    return reinterpret_cast<float2*>(shared + kRingBytes + kMergeBytes);
  }

  /// This warp's share for heads 8 n .. 8 n + 7 into place `to` of the merge buffer.
  __device__ void put_share(int n, int to) const {
    const int thread = opaque(lane);
    const int g = thread / 4;
    const int c = thread % 4;
    float* buffer = merge_buffer();
    if (g == 0) {
      merge_max_sum()[to * 8 + 2 * c] = {max[n][0], sum[n][0]};
      merge_max_sum()[to * 8 + 2 * c + 1] = {max[n][1], sum[n][1]};
    }
#pragma unroll
    for (int d = 0; d < kDimTiles; ++d) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int h = 2 * c + j;
        if constexpr (kFp8) {
          *reinterpret_cast<float2*>(buffer + merge_at(to, h, d * 16 + 2 * g)) = {acc[d][n][j],
                                                                                  acc[d][n][2 + j]};
        } else {
          buffer[merge_at(to, h, d * 16 + g)] = acc[d][n][j];
          buffer[merge_at(to, h, d * 16 + 8 + g)] = acc[d][n][2 + j];
        }
      }
    }
  }
  /// Adds the share at place `from`, put by the same lane of another warp.
  __device__ void take_share(int n, int from) {
    static_assert(kFp8 || kWarps == kMergeWarps);
    const int thread = opaque(lane);
    const int g = thread / 4;
    const int c = thread % 4;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int h = 2 * c + j;
      const float2 other = merge_max_sum()[from * 8 + h];
      const float next = fmaxf(max[n][j], other.x);
      const float reference = next == -INFINITY ? 0.0F : next;
      const float keep = fast_exp2(max[n][j] - reference);
      const float weight = fast_exp2(other.x - reference);
      max[n][j] = next;
      sum[n][j] = sum[n][j] * keep + other.y * weight;
#pragma unroll
      for (int d = 0; d < kDimTiles; ++d) {
        const float2 o =
            *reinterpret_cast<const float2*>(merge_buffer() + merge_at(from, h, d * 16 + 2 * g));
        acc[d][n][j] = acc[d][n][j] * keep + o.x * weight;
        acc[d][n][2 + j] = acc[d][n][2 + j] * keep + o.y * weight;
      }
    }
  }

  __device__ void end_segment(const Segment& w, int32_t units_per_block) {
    Split part;
    if (w.units < w.n_units) part = Split(w, units_per_block, p.batch_invariant);
    const int64_t out_head = static_cast<int64_t>(w.row) * p.n_heads + w.head * p.group;
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int o = 4; o < 32; o *= 2) sum[n][j] += __shfl_xor_sync(~0U, sum[n][j], o);
      }
      __syncthreads();  // the buffer's last readers are done
      if constexpr (kWarps > kMergeWarps) {
        if (warp >= kMergeWarps) put_share(n, warp - kMergeWarps);
        __syncthreads();
        if (warp < kMergeWarps) {
          take_share(n, warp);
          __syncwarp();
          put_share(n, warp);
        }
      } else {
        put_share(n, warp);
      }
      __syncthreads();
      combine_shares(n, part, out_head);
    }
    if (part.count > 1 && arrive_last(w, part.count))
      merge<kHeadDim, 32 / kWarps>(p, part, out_head);
  }

  /// Heads 8 n .. 8 n + 7 of the segment from the merge buffer to out or to its partial.
  __device__ void combine_shares(int n, const Split& part, int64_t out_head) const {
    const float2* max_sum = merge_max_sum();
    const int heads = min(p.group - n * 8, 8);
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < heads * (kHeadDim / 4); i += kThreads) {
      const int h = i / (kHeadDim / 4);
      const int d = i % (kHeadDim / 4) * 4;
      float m = -INFINITY;
      for (int k = 0; k < kMergeWarps; ++k) m = fmaxf(m, max_sum[k * 8 + h].x);
      const float reference = m == -INFINITY ? 0.0F : m;
      float l = 0;
      float4 o = {0, 0, 0, 0};
      for (int k = 0; k < kMergeWarps; ++k) {
        const float weight = fast_exp2(max_sum[k * 8 + h].x - reference);
        l += weight * max_sum[k * 8 + h].y;
        add(o, *reinterpret_cast<const float4*>(merge_buffer() + merge_at(k, h, d)), weight);
      }
      const int head = n * 8 + h;
      if (part.count == 1) {
        write_out(p, (out_head + head) * kHeadDim + d, o, l);
      } else {
        const int64_t at = static_cast<int64_t>(part.own) * p.group + head;
        __stcg(reinterpret_cast<float4*>(p.partial + at * kHeadDim + d), o);
        if (d == 0) __stcg(p.partial_max_sum + at, float2{m, l});
      }
    }
  }

  /// True in the block that completes the (row, KV head), whose partials are then all visible.
  __device__ bool arrive_last(const Segment& w, int32_t count) const {
    auto* flag = reinterpret_cast<uint32_t*>(shared + kSharedBytes - 16);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      const auto last = static_cast<uint32_t>(count - 1);
      *flag = atomicInc(p.tickets + w.row * p.n_kv_heads + w.head, last) == last ? 1 : 0;
    }
    __syncthreads();
    const bool yes = *flag != 0;
    if (yes) __threadfence();
    return yes;
  }

  /// The plan, the slots and all but the newest positions were there before the launch that
  /// precedes this one, so their loads do not wait for it.
  __device__ void run() {
    grid_dependency_launch();
    const BlockPlan block = p.blocks[blockIdx.x];
    // Without work it makes room for the next kernel; one block must wait in any case, so that the
    // launch ends after those before it.
    if (block.n_units <= 0 && blockIdx.x != 0) return;
    Walk ahead(p, block);
    Walk here(p, block);
    int32_t slot = load_slot(ahead);
    const auto start_next = [&](int stage) {
      start_copy(ahead, slot, stage);
      if (!ahead.done()) ahead.next_tile();
      slot = load_slot(ahead);
    };
    bool waited = false;
#pragma unroll 1
    for (int s = 0; s < kStages - 1; ++s) {
      if (!waited && !ahead.done() && visible(ahead).first + kSlice >= ahead.plan.context) {
        grid_dependency_wait();
        waited = true;
      }
      start_next(s);
    }
    grid_dependency_wait();
    if (here.done()) return;
    load_query(here);
    begin_segment();
    int stage = 0;
    while (!here.done()) {
      cp_async_wait<kStages - 2>();
      __syncwarp();
      start_next(stage == 0 ? kStages - 1 : stage - 1);
      compute(here, stage);
      stage = stage + 1 == kStages ? 0 : stage + 1;
      if (here.last_tile()) {
        const Segment ended(here);
        here.next_tile();
        load_query(here);  // under way meanwhile
        end_segment(ended, block.units_per_block);
        begin_segment();
      } else {
        here.next_tile();
      }
    }
  }
};

template <class Kv, int kHeadDim, int kHeadTiles>
__global__ void __launch_bounds__(Decode<Kv, kHeadDim, kHeadTiles>::kThreads, 2)
    decode_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(1024) unsigned char shared[];
  Decode<Kv, kHeadDim, kHeadTiles>(p, shared).run();
}

template <class Kv, int kHeadDim, int kHeadTiles>
Kernel kernel_of() {
  using D = Decode<Kv, kHeadDim, kHeadTiles>;
  return {reinterpret_cast<const void*>(&decode_kernel<Kv, kHeadDim, kHeadTiles>), D::kThreads,
          D::kSharedBytes};
}
template <class Kv>
Kernel choose_kernel(int32_t head_dim, int32_t group) {
  if (head_dim == 128) return group <= 8 ? kernel_of<Kv, 128, 1>() : kernel_of<Kv, 128, 2>();
  return group <= 8 ? kernel_of<Kv, 64, 1>() : kernel_of<Kv, 64, 2>();
}

}  // namespace troupe::cuda::decode
