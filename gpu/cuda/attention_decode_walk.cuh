#pragma once

#include "gpu/cuda/attention_decode.cuh"
#include "gpu/cuda/attention_ptx.cuh"

/// How a decode block finds its way through the plan, and how the results of several blocks come
/// together.
namespace troupe::cuda::decode {

/// What a format of K and V is multiplied as.
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

/// What is left of a segment when its sums are complete.
struct Segment {
  int32_t row;
  int32_t head;
  int32_t begin;  // first unit of the (row, KV head), in the line of all
  int32_t n_units;
  int32_t unit;
  int32_t units;

  __device__ explicit Segment(const Walk& w)
      : row(w.row),
        head(w.head),
        begin(w.plan.unit_base + w.head * w.plan.n_units),
        n_units(w.plan.n_units),
        unit(w.unit),
        units(w.units) {}
};

/// Which partials make up a (row, KV head), and which one a segment is.
struct Split {
  int32_t count = 1;
  int32_t own = 0;  // index of the segment's partial
  int32_t first_block = 0;
  int32_t first = 0;
  bool batch_invariant = false;

  Split() = default;
  /// A block leaves at most two segments unfinished, its first and its last: partials 2 b, 2 b + 1.
  __device__ Split(const Segment& s, int32_t per_block, bool invariant)
      : batch_invariant(invariant) {
    const int32_t here = s.begin + s.unit;
    if (batch_invariant) {
      count = s.n_units;
      own = here;
      first = s.begin;
      return;
    }
    const auto block = static_cast<int32_t>(blockIdx.x);
    first_block = s.begin / per_block;
    count = (s.begin + s.n_units - 1) / per_block - first_block + 1;
    own = 2 * block + (here == block * per_block ? 0 : 1);
    first = 2 * first_block + (s.begin == first_block * per_block ? 0 : 1);
  }
  [[nodiscard]] __device__ int32_t partial(int32_t i) const {
    return batch_invariant || i == 0 ? first + i : 2 * (first_block + i);
  }
};

__device__ __forceinline__ void add(float4& o, const float4& x, float weight) {
  o.x += weight * x.x;
  o.y += weight * x.y;
  o.z += weight * x.z;
  o.w += weight * x.w;
}
__device__ __forceinline__ void write_out(const Params& p, int64_t at, const float4& o, float l) {
  const float r = p.out_scale / l;
  *reinterpret_cast<uint2*>(p.out + at) = {pack2(o.x * r, o.y * r, __nv_bfloat16()),
                                           pack2(o.z * r, o.w * r, __nv_bfloat16())};
}

/// Adds the partials of a (row, KV head) in split order, whoever comes last. `out_head` is the
/// group's first head in out; kBatch loads are in flight at a time.
template <int kHeadDim, int kBatch>
__device__ __forceinline__ void merge(const Params& p, const Split& part, int64_t out_head) {
  for (int i = static_cast<int>(threadIdx.x); i < p.group * (kHeadDim / 4);
       i += static_cast<int>(blockDim.x)) {
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
    write_out(p, (out_head + h) * kHeadDim + d, o, l);
  }
}

}  // namespace troupe::cuda::decode
