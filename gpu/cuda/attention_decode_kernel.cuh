#pragma once

#include "gpu/cuda/attention_decode.cuh"
#include "gpu/cuda/attention_ptx.cuh"

/// Decode attention. Each warp streams its slices of a tile (K and V rows of arbitrary slots)
/// through a private ring of shared memory by cp.async and never meets the other warps before the
/// end of a segment, a run of tiles of one (row, KV head). Scores are computed transposed, S^T =
/// K Q^T and O^T = V^T P^T, so that the heads of a group fill the 8 columns of an mma tile.
namespace troupe::cuda::decode {

template <class Kv>
struct KvTraits;
template <>
struct KvTraits<__nv_bfloat16> {
  static constexpr KvFormat kFormat = KvFormat::kBf16;
  using Mma = __nv_bfloat16;
};
template <>
struct KvTraits<__nv_fp8_e4m3> {  // e4m3 is exact in f16, and f16 has the fast conversion
  static constexpr KvFormat kFormat = KvFormat::kFp8;
  using Mma = __half;
};

/// A position in the block's sequence of segments.
struct Walk {
  const Params& p;
  RowPlan plan;
  int32_t row;
  int32_t head;
  int32_t unit;
  int32_t left;   // units of the block from `unit` on
  int32_t units;  // of this segment
  int32_t tile;
  int32_t tile_end;

  __device__ Walk(const Params& params, const BlockPlan& block)
      : p(params), row(block.row), head(block.head), unit(block.unit), left(block.n_units) {
    plan = block.first_row;
    enter();
  }
  [[nodiscard]] __device__ bool done() const { return left <= 0; }
  [[nodiscard]] __device__ bool last_tile() const { return tile + 1 >= tile_end; }
  __device__ void next_tile() {
    if (++tile >= tile_end) next_segment();
  }

 private:
  __device__ void enter() {
    if (left <= 0) return;
    units = p.batch_invariant ? 1 : min(left, plan.n_units - unit);
    tile = unit * plan.unit_tiles;
    tile_end = min(tile + units * plan.unit_tiles, plan.n_tiles);
  }
  __device__ void next_segment() {
    left -= units;
    unit += units;
    if (left > 0 && unit == plan.n_units) {
      unit = 0;
      if (++head == p.n_kv_heads) {
        head = 0;
        do plan = p.rows[++row];
        while (plan.n_units == 0);
      }
    }
    enter();
  }
};

template <class Kv, int kHeadDim, int kHeadTiles>
struct Decode {
  using Traits = KvTraits<Kv>;
  using Mma = typename Traits::Mma;
  static constexpr bool kFp8 = Traits::kFormat == KvFormat::kFp8;
  static constexpr int kSlice = slice_tokens(Traits::kFormat, kHeadDim);
  static constexpr int kTile = kWarps * kSlice;
  static constexpr int kHalfBytes = kHeadDim * static_cast<int>(sizeof(Kv));  // K or V of a slot
  static constexpr int kRowBytes = 2 * kHalfBytes;
  static constexpr int kChunks = kRowBytes / 16;
  static constexpr int kSliceBytes = kSlice * kRowBytes;
  static constexpr int kStages = 24576 / kSliceBytes;
  static constexpr int kRingBytes = kWarps * kStages * kSliceBytes;
  static constexpr int kMergeBytes = kWarps * 8 * kHeadDim * 4;
  static constexpr int kSharedBytes = kRingBytes + kMergeBytes + kWarps * 8 * 8 + 16;
  static constexpr int kTokenTiles = kSlice / 16;
  static constexpr int kDimTiles = kHeadDim / 16;
  static_assert(kStages >= 3 && kSharedBytes <= 115712, "two blocks per multiprocessor");

  const Params& p;
  unsigned char* shared;
  int warp = static_cast<int>(threadIdx.x) / 32;
  int lane = static_cast<int>(threadIdx.x) % 32;
  uint32_t ring;

  uint32_t query[kDimTiles][kHeadTiles][2];
  float acc[kDimTiles][kHeadTiles][4];
  float max[kHeadTiles][2];  // of heads 2 (lane % 4) + {0, 1}, in units of log2
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
        const int chunk = lane % kChunks;
        const auto* head = static_cast<const unsigned char*>(p.kv) +
                           static_cast<int64_t>(w.head) * kRowBytes + chunk * 16;
        const int64_t slot_bytes = static_cast<int64_t>(p.n_kv_heads) * kRowBytes;
        const uint32_t to = ring + static_cast<uint32_t>(stage * kSliceBytes);
#pragma unroll
        for (int i = 0; i < kSlice / kTokens; ++i) {
          const int t = i * kTokens + lane / kChunks;
          const int32_t s = __shfl_sync(~0U, slot, t);
          cp_async16(to + static_cast<uint32_t>(t * kRowBytes + ((chunk ^ (t & 7)) * 16)),
                     head + s * slot_bytes, t >= v.low && t < v.high ? 16U : 0U);
        }
      }
    }
    cp_async_commit();
  }

  /// Shared address of 16-byte chunk `chunk` of token t, spread over the banks.
  static __device__ uint32_t at(uint32_t slice, int t, int chunk) {
    return slice + static_cast<uint32_t>(t * kRowBytes + ((chunk ^ (t & 7)) * 16));
  }

  __device__ void begin_segment(const Walk& w) {
    const int g = lane / 4;
    const int c = lane % 4;
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
          query[k][n][0] = bf16_to_f16(x.x);
          query[k][n][1] = bf16_to_f16(x.y);
        } else {
          const auto* x = reinterpret_cast<const uint32_t*>(q + k * 16 + c * 2);
          query[k][n][0] = used ? x[0] : 0;
          query[k][n][1] = used ? x[4] : 0;
        }
#pragma unroll
        for (float& a : acc[k][n]) a = 0;
      }
      max[n][0] = max[n][1] = -INFINITY;
      sum[n][0] = sum[n][1] = 0;
    }
  }
  static __device__ uint32_t bf16_to_f16(uint32_t x) {
    const auto clamp = [](uint32_t bits) {
      return fminf(fmaxf(__uint_as_float(bits), -65504.0F), 65504.0F);
    };
    return pack2(clamp(x << 16U), clamp(x & 0xffff0000U), __half());
  }

  /// Tokens 16 t .. 16 t + 15 of K as the left operand, dimension tiles k and k + 1 when fp8.
  __device__ void scores(float (&s)[kTokenTiles][kHeadTiles][4], uint32_t slice) const {
    const int m = lane / 8;
#pragma unroll
    for (int t = 0; t < kTokenTiles; ++t) {
      const int row = t * 16 + lane % 8 + (m & 1) * 8;
      if constexpr (kFp8) {
#pragma unroll
        for (int k = 0; k < kDimTiles; k += 2) {
          uint32_t r[4];
          ldmatrix_x4(r, at(slice, row, k + (m >> 1)));
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const uint32_t a[4] = {e4m3_to_f16(r[2 * j]), e4m3_to_f16(r[2 * j + 1]),
                                   e4m3_to_f16(r[2 * j] >> 16U), e4m3_to_f16(r[2 * j + 1] >> 16U)};
#pragma unroll
            for (int n = 0; n < kHeadTiles; ++n)
              mma_16816(s[t][n], a, query[k + j][n][0], query[k + j][n][1], Mma());
          }
        }
      } else {
#pragma unroll
        for (int k = 0; k < kDimTiles; ++k) {
          uint32_t a[4];
          ldmatrix_x4(a, at(slice, row, k * 2 + (m >> 1)));
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
    const int m = lane / 8;
    constexpr int kV = kHalfBytes / 16;
#pragma unroll
    for (int t = 0; t < kTokenTiles; ++t) {
      if constexpr (kFp8) {
        const int row = t * 16 + lane % 8 + (m & 1) * 8;
#pragma unroll
        for (int d = 0; d < kDimTiles; d += 2) {
          uint32_t r[4];  // a 16-bit element is two dimensions of one token
          ldmatrix_x4_trans(r, at(slice, row, kV + d + (m >> 1)));
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const uint32_t x = __byte_perm(r[2 * j], 0, 0x3120);
            const uint32_t y = __byte_perm(r[2 * j + 1], 0, 0x3120);
            const uint32_t a[4] = {e4m3_to_f16(x), e4m3_to_f16(x >> 16U), e4m3_to_f16(y),
                                   e4m3_to_f16(y >> 16U)};
#pragma unroll
            for (int n = 0; n < kHeadTiles; ++n)
              mma_16816(acc[d + j][n], a, weights[t][n][0], weights[t][n][1], Mma());
          }
        }
      } else {
        const int row = t * 16 + lane % 8 + (m >> 1) * 8;
#pragma unroll
        for (int d = 0; d < kDimTiles; ++d) {
          uint32_t a[4];
          ldmatrix_x4_trans(a, at(slice, row, kV + d * 2 + (m & 1)));
#pragma unroll
          for (int n = 0; n < kHeadTiles; ++n)
            mma_16816(acc[d][n], a, weights[t][n][0], weights[t][n][1], Mma());
        }
      }
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
      float next[2] = {max[n][0], max[n][1]};
#pragma unroll
      for (int t = 0; t < kTokenTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int token = t * 16 + lane / 4 + (i / 2) * 8;
          float& x = s[t][n][i];
          x = all || (token >= v.low && token < v.high) ? x * p.score_scale : -INFINITY;
          next[i & 1] = fmaxf(next[i & 1], x);
        }
      }
      float keep[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int o = 4; o < 32; o *= 2) next[j] = fmaxf(next[j], __shfl_xor_sync(~0U, next[j], o));
        keep[j] = fast_exp2(max[n][j] - next[j]);  // at least one token is visible: not -inf
        max[n][j] = next[j];
        sum[n][j] *= keep[j];
      }
#pragma unroll
      for (int t = 0; t < kTokenTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          s[t][n][i] = fast_exp2(s[t][n][i] - next[i & 1]);
          sum[n][i & 1] += s[t][n][i];
        }
        weights[t][n][0] = movmatrix_trans(pack2(s[t][n][0], s[t][n][1], Mma()));
        weights[t][n][1] = movmatrix_trans(pack2(s[t][n][2], s[t][n][3], Mma()));
      }
#pragma unroll
      for (int d = 0; d < kDimTiles; ++d) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[d][n][i] *= keep[i & 1];
      }
    }
    accumulate(weights, slice);
  }

  // --- end of a segment --------------------------------------------------------------------------

  /// Which partials make up a (row, KV head), and which one this segment is.
  struct Split {
    int32_t count;
    int32_t own;  // index of this segment's partial
    int32_t first_block;
    int32_t first;
    bool batch_invariant;
    [[nodiscard]] __device__ int32_t partial(int32_t i) const {
      if (batch_invariant || i == 0) return first + i;
      return 2 * (first_block + i);
    }
  };
  /// A block leaves at most two segments unfinished, its first and its last: partials 2 b, 2 b + 1.
  [[nodiscard]] __device__ Split split(const Walk& w, int32_t per_block) const {
    const int32_t begin = w.plan.unit_base + w.head * w.plan.n_units;
    const int32_t here = begin + w.unit;
    if (p.batch_invariant) return {w.plan.n_units, here, 0, begin, true};
    const auto block = static_cast<int32_t>(blockIdx.x);
    const int32_t first = begin / per_block;
    const int32_t last = (begin + w.plan.n_units - 1) / per_block;
    return {last - first + 1, 2 * block + (here == block * per_block ? 0 : 1), first,
            2 * first + (begin == first * per_block ? 0 : 1), false};
  }

  __device__ float* merge_buffer() const { return reinterpret_cast<float*>(shared + kRingBytes); }
  /// Where dimension d of head h (0..7) of warp w lies; the xor spreads heads over the banks.
  static __device__ int merge_at(int w, int h, int d) {
    return (w * 8 + h) * kHeadDim + (d ^ (((h >> 1) & 3) * 8));
  }

  __device__ void end_segment(const Walk& w, int32_t units_per_block) {
    const Split part = split(w, units_per_block);
    const int g = lane / 4;
    const int c = lane % 4;
    float* buffer = merge_buffer();
    auto* max_sum = reinterpret_cast<float2*>(shared + kRingBytes + kMergeBytes);  // [warp][8]
    const int64_t out_head = static_cast<int64_t>(w.row) * p.n_heads + w.head * p.group;
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int o = 4; o < 32; o *= 2) sum[n][j] += __shfl_xor_sync(~0U, sum[n][j], o);
      }
      __syncthreads();  // the buffer's last readers are done
      if (g == 0) {
        max_sum[warp * 8 + 2 * c] = {max[n][0], sum[n][0]};
        max_sum[warp * 8 + 2 * c + 1] = {max[n][1], sum[n][1]};
      }
#pragma unroll
      for (int d = 0; d < kDimTiles; ++d) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int h = 2 * c + j;
          if constexpr (kFp8) {
            *reinterpret_cast<float2*>(buffer + merge_at(warp, h, d * 16 + 2 * g)) = {
                acc[d][n][j], acc[d][n][2 + j]};
          } else {
            buffer[merge_at(warp, h, d * 16 + g)] = acc[d][n][j];
            buffer[merge_at(warp, h, d * 16 + 8 + g)] = acc[d][n][2 + j];
          }
        }
      }
      __syncthreads();
      const int heads = min(p.group - n * 8, 8);
      for (int i = static_cast<int>(threadIdx.x); i < heads * (kHeadDim / 4); i += kThreads) {
        const int h = i / (kHeadDim / 4);
        const int d = i % (kHeadDim / 4) * 4;
        float m = -INFINITY;
        for (int k = 0; k < kWarps; ++k) m = fmaxf(m, max_sum[k * 8 + h].x);
        const float reference = m == -INFINITY ? 0.0F : m;
        float l = 0;
        float4 o = {0, 0, 0, 0};
        for (int k = 0; k < kWarps; ++k) {
          const float weight = fast_exp2(max_sum[k * 8 + h].x - reference);
          l += weight * max_sum[k * 8 + h].y;
          add(o, *reinterpret_cast<const float4*>(buffer + merge_at(k, h, d)), weight);
        }
        const int head = n * 8 + h;
        if (part.count == 1) {
          write_out((out_head + head) * kHeadDim + d, o, l);
        } else {
          const int64_t at = static_cast<int64_t>(part.own) * p.group + head;
          __stcg(reinterpret_cast<float4*>(p.partial + at * kHeadDim + d), o);
          if (d == 0) __stcg(p.partial_max_sum + at, float2{m, l});
        }
      }
    }
    if (part.count > 1 && arrive_last(w, part.count)) merge(part, out_head);
  }
  static __device__ void add(float4& o, const float4& x, float weight) {
    o.x += weight * x.x;
    o.y += weight * x.y;
    o.z += weight * x.z;
    o.w += weight * x.w;
  }
  __device__ void write_out(int64_t at, const float4& o, float l) const {
    const float r = p.out_scale / l;
    *reinterpret_cast<uint2*>(p.out + at) = {pack2(o.x * r, o.y * r, __nv_bfloat16()),
                                             pack2(o.z * r, o.w * r, __nv_bfloat16())};
  }

  /// True in the block that completes the (row, KV head), whose partials are then all visible.
  __device__ bool arrive_last(const Walk& w, int32_t count) const {
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

  /// The partials in split order, whoever comes last.
  __device__ void merge(const Split& part, int64_t out_head) const {
    constexpr int kBatch = 16;  // loads in flight
    for (int i = static_cast<int>(threadIdx.x); i < p.group * (kHeadDim / 4); i += kThreads) {
      const int h = i / (kHeadDim / 4);
      const int d = i % (kHeadDim / 4) * 4;
      float m = -INFINITY;
      float l = 0;
      float4 o = {0, 0, 0, 0};
      for (int s = 0; s < part.count; s += kBatch) {
        float2 ml[kBatch];
        float4 x[kBatch];
#pragma unroll
        for (int k = 0; k < kBatch; ++k) {
          if (s + k >= part.count) break;
          const int64_t at = static_cast<int64_t>(part.partial(s + k)) * p.group + h;
          ml[k] = __ldcg(p.partial_max_sum + at);
          x[k] = __ldcg(reinterpret_cast<const float4*>(p.partial + at * kHeadDim + d));
        }
#pragma unroll
        for (int k = 0; k < kBatch; ++k) {
          if (s + k >= part.count || ml[k].x == -INFINITY) continue;
          const float next = fmaxf(m, ml[k].x);
          const float keep = fast_exp2(m - next);
          const float weight = fast_exp2(ml[k].x - next);
          m = next;
          l = l * keep + weight * ml[k].y;
          o = {o.x * keep, o.y * keep, o.z * keep, o.w * keep};
          add(o, x[k], weight);
        }
      }
      write_out((out_head + h) * kHeadDim + d, o, l);
    }
  }

  /// The plan, the slots and all but the newest positions were there before the launch that
  /// precedes this one, so their loads do not wait for it.
  __device__ void run() {
    const BlockPlan block = p.blocks[blockIdx.x];
    Walk ahead(p, block);
    Walk here(p, block);
    int32_t slot = load_slot(ahead);
    const auto start_next = [&](int stage) {
      start_copy(ahead, slot, stage);
      if (!ahead.done()) ahead.next_tile();
      slot = load_slot(ahead);
    };
    bool waited = false;
    for (int s = 0; s < kStages - 1; ++s) {
      if (!waited && !ahead.done() && visible(ahead).first + kSlice >= ahead.plan.context) {
        grid_dependency_wait();
        waited = true;
      }
      start_next(s);
    }
    grid_dependency_wait();
    grid_dependency_launch();
    if (here.done()) return;
    begin_segment(here);
    int stage = 0;
    while (!here.done()) {
      cp_async_wait<kStages - 2>();
      __syncwarp();
      start_next(stage == 0 ? kStages - 1 : stage - 1);
      compute(here, stage);
      stage = stage + 1 == kStages ? 0 : stage + 1;
      const bool last = here.last_tile();
      if (last) end_segment(here, block.units_per_block);
      here.next_tile();
      if (last && !here.done()) begin_segment(here);
    }
  }
};

template <class Kv, int kHeadDim, int kHeadTiles>
__global__ void __launch_bounds__(kThreads, 2) decode_kernel(const Params p) {
  extern __shared__ __align__(128) unsigned char shared[];
  Decode<Kv, kHeadDim, kHeadTiles>(p, shared).run();
}

template <class Kv, int kHeadDim, int kHeadTiles>
Kernel kernel_of() {
  return {reinterpret_cast<const void*>(&decode_kernel<Kv, kHeadDim, kHeadTiles>),
          Decode<Kv, kHeadDim, kHeadTiles>::kSharedBytes};
}
template <class Kv>
Kernel choose_kernel(int32_t head_dim, int32_t group) {
  if (head_dim == 128) return group <= 8 ? kernel_of<Kv, 128, 1>() : kernel_of<Kv, 128, 2>();
  return group <= 8 ? kernel_of<Kv, 64, 1>() : kernel_of<Kv, 64, 2>();
}

}  // namespace troupe::cuda::decode
