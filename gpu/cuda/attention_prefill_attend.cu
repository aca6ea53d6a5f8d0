#include "gpu/cuda/attention_prefill.cuh"
#include "gpu/cuda/attention_ptx.cuh"
#include "gpu/cuda/attention_wgmma.cuh"

/// Causal attention of packed rows on tiles in memory: a producer warpgroup brings K and V tiles,
/// two consumer warpgroups own 64 rows each. FlashAttention-3's schedule (Shah et al.
/// 2024, algorithm 2): S of the next tile is in flight while P V of this one is.
namespace troupe::cuda::prefill {
namespace {

constexpr int kStages = 2;
constexpr int kConsumers = 2;
constexpr int kWgRows = kRows / kConsumers;

template <int kHeadDim>
struct Layout {
  static constexpr int kMatrixBytes = kTile * kHeadDim * 2;   // K or V of a tile
  static constexpr int kQueryBytes = kWgRows * kHeadDim * 2;  // of one warpgroup
  static constexpr int kQuery = 0;
  static constexpr int kK = kConsumers * kQueryBytes;
  static constexpr int kV = kK + kStages * kMatrixBytes;
  static constexpr int kBarriers = kV + kStages * kMatrixBytes;
  static constexpr int kBytes = kBarriers + 4 * kStages * 8 + 1024;  // + alignment
};

/// The pipeline's barriers: full and empty, of K and of V.
struct Barriers {
  uint32_t base;
  [[nodiscard]] __device__ uint32_t full_k(int s) const {
    return base + static_cast<uint32_t>(s) * 8;
  }
  [[nodiscard]] __device__ uint32_t full_v(int s) const { return full_k(kStages + s); }
  [[nodiscard]] __device__ uint32_t empty_k(int s) const { return full_k(2 * kStages + s); }
  [[nodiscard]] __device__ uint32_t empty_v(int s) const { return full_k(3 * kStages + s); }
};
struct Stage {
  int index = 0;
  uint32_t parity = 0;
  __device__ void next() {
    if (++index == kStages) {
      index = 0;
      parity ^= 1U;
    }
  }
};

/// Items are sorted by length; going back and forth evens out what the blocks get.
__device__ __forceinline__ int item_of(int turn) {
  const int n = static_cast<int>(gridDim.x);
  const int b = static_cast<int>(blockIdx.x);
  return turn * n + ((turn & 1) != 0 ? n - 1 - b : b);
}

#ifdef TROUPE_HAS_WGMMA

/// The producer warpgroup: fills the stages with the items' tiles, K and V by turns.
template <int kHeadDim>
struct Producer {
  using L = Layout<kHeadDim>;
  const Params& p;
  uint32_t shared;
  Barriers barriers;
  Stage stage{0, 1};  // the stages start empty
  int thread = static_cast<int>(threadIdx.x) % 128;

  __device__ Producer(const Params& params, uint32_t memory, const Barriers& b)
      : p(params), shared(memory), barriers(b) {}

  __device__ void run() {
    for (int turn = 0; item_of(turn) < p.n_items; ++turn) {
      const Item item = p.items[item_of(turn)];
      const DeviceChunk chunk = p.chunks[item.chunk];
      if (chunk.n_tiles > 0)
        bring_tiles(chunk, item);
      else
        gather(chunk, item);
    }
  }

 private:
  __device__ void bring_tiles(const DeviceChunk& chunk, const Item& item) {
    const int begin = first_tile(p, chunk, item);
    const unsigned char* tiles =
        p.tiles + (static_cast<int64_t>(chunk.tile_base) + int64_t{item.head} * chunk.n_tiles) *
                      (2 * L::kMatrixBytes);
    for (int t = item.tile_end - 1; t >= begin; --t) {
      if (thread == 0) {
        const unsigned char* k = tiles + static_cast<int64_t>(t) * (2 * L::kMatrixBytes);
        const auto offset = static_cast<uint32_t>(stage.index * L::kMatrixBytes);
        barrier_wait(barriers.empty_k(stage.index), stage.parity);
        barrier_expect(barriers.full_k(stage.index), L::kMatrixBytes);
        bulk_copy(shared + L::kK + offset, k, L::kMatrixBytes, barriers.full_k(stage.index));
        barrier_wait(barriers.empty_v(stage.index), stage.parity);
        barrier_expect(barriers.full_v(stage.index), L::kMatrixBytes);
        bulk_copy(shared + L::kV + offset, k + L::kMatrixBytes, L::kMatrixBytes,
                  barriers.full_v(stage.index));
      }
      stage.next();
    }
  }

  /// From the slots: thread i holds the slot of position i of a tile, a warp copies its 32
  /// positions. A matrix is announced when the copies of the next one are under way.
  __device__ void gather(const DeviceChunk& chunk, const Item& item) {
    named_sync(3, 128);  // thread 0 may be behind: a wait two phases ahead would pass at once
    const int begin = first_tile(p, chunk, item);
    const int32_t* slots = p.slots + chunk.table_row * p.slots_stride;
    const auto load_slot = [&](int t) {
      const int position = t * kTile + thread;
      return t >= begin && position < chunk.context ? slots[position] : -1;
    };
    int32_t slot = load_slot(item.tile_end - 1);
    uint32_t pending = 0;  // the barrier of the matrix before
    for (int t = item.tile_end - 1; t >= begin; --t) {
      const int32_t next = load_slot(t - 1);
      barrier_wait(barriers.empty_k(stage.index), stage.parity);
      copy_rows(slot, item.head, 0, L::kK + stage.index * L::kMatrixBytes);
      if (pending != 0) announce<1>(pending);
      barrier_wait(barriers.empty_v(stage.index), stage.parity);
      copy_rows(slot, item.head, 1, L::kV + stage.index * L::kMatrixBytes);
      announce<1>(barriers.full_k(stage.index));
      pending = barriers.full_v(stage.index);
      stage.next();
      slot = next;
    }
    if (pending != 0) announce<0>(pending);
  }
  /// K (matrix 0) or V of the warp's positions; slot -1 gives zeros.
  __device__ void copy_rows(int32_t slot, int head, int matrix, int offset) const {
    constexpr int kChunks = kHeadDim / 8;
    constexpr int kPositions = 32 / kChunks;  // of one instruction
    const int lane = thread % 32;
    const int chunk = lane % kChunks;
    const auto* from = static_cast<const __nv_bfloat16*>(p.kv) +
                       (2 * head + matrix) * int64_t{kHeadDim} + chunk * 8;
    const int64_t slot_size = int64_t{2} * p.n_kv_heads * kHeadDim;
    const uint32_t to = shared + static_cast<uint32_t>(offset + chunk / 8 * (kTile * 128));
#pragma unroll 4
    for (int i = 0; i < 32 / kPositions; ++i) {
      const int r = i * kPositions + lane / kChunks;
      const int32_t s = __shfl_sync(~0U, slot, r);
      cp_async16(
          to + static_cast<uint32_t>((thread / 32 * 32 + r) * 128 + ((chunk % 8) ^ (r & 7)) * 16),
          from + max(s, 0) * slot_size, s < 0 ? 0U : 16U);
    }
    cp_async_commit();
  }
  template <int kPending>
  __device__ void announce(uint32_t barrier) const {
    cp_async_wait<kPending>();
    fence_async_proxy();
    named_sync(3, 128);
    if (thread == 0) barrier_arrive(barrier);
  }
};

/// One consumer warpgroup.
template <int kHeadDim>
struct Consumer {
  using L = Layout<kHeadDim>;
  const Params& p;
  uint32_t shared;
  Barriers barriers;
  int wg;      // 0 or 1
  int thread;  // 0..127
  uint32_t query;

  static constexpr int kChunks = kHeadDim / 8;  // 16 bytes of a row
  static constexpr int kQueryLoads = kWgRows * kChunks / 128;
  uint4 fetched[kQueryLoads];
  float s[kTile / 2];     // [64 x kTile] scores, then weights
  float o[kHeadDim / 2];  // [64 x kHeadDim]
  uint32_t weights[kTile / 16][4];
  float max[2];  // of rows 16 (thread / 32) + lane / 4 + {0, 8}, before scaling
  float sum[2];  // this lane's share
  Stage k_stage;
  Stage v_stage;

  __device__ Consumer(const Params& params, uint32_t memory, const Barriers& b, int warpgroup)
      : p(params),
        shared(memory),
        barriers(b),
        wg(warpgroup),
        thread(static_cast<int>(threadIdx.x) % 128),
        query(memory + static_cast<uint32_t>(L::kQuery + warpgroup * L::kQueryBytes)) {}

  /// Shared address of 16-byte chunk `chunk` of row r of the warpgroup's query block.
  [[nodiscard]] __device__ uint32_t query_at(int r, int chunk) const {
    return query + static_cast<uint32_t>((chunk / 8) * (kWgRows * 128) + r * 128 +
                                         (((chunk % 8) ^ (r & 7)) * 16));
  }
  __device__ void group_sync() const { named_sync(1 + wg, 128); }

  /// Offset of row r of the item in q and out, or -1 past the chunk's last row.
  [[nodiscard]] __device__ int64_t row_offset(const DeviceChunk& c, const Item& item, int r) const {
    const int packed = item.row_begin + wg * kWgRows + r;
    const int token = packed / p.group;
    if (token >= c.n_tokens) return -1;
    return (static_cast<int64_t>(c.token_begin + token) * p.n_heads + item.head * p.group +
            packed % p.group) *
           kHeadDim;
  }

  /// The query of an item into registers, and from there into shared memory. Apart, so that the
  /// loads pass behind the end of the item before.
  __device__ void fetch_query(const DeviceChunk& c, const Item& item) {
    const int from = opaque(thread);
#pragma unroll
    for (int i = 0; i < kQueryLoads; ++i) {
      const int at = i * 128 + from;
      const int64_t offset = row_offset(c, item, at / kChunks);
      fetched[i] = offset < 0 ? uint4{0, 0, 0, 0}
                              : *reinterpret_cast<const uint4*>(p.q + offset + at % kChunks * 8);
    }
  }
  __device__ void put_query() const {
    group_sync();  // the last item's query and output are done with
    const int from = opaque(thread);
#pragma unroll
    for (int i = 0; i < kQueryLoads; ++i) {
      const int at = i * 128 + from;
      const uint4& x = fetched[i];
      asm volatile(
          "st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(query_at(at / kChunks, at % kChunks)),
          "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w)
          : "memory");
    }
    fence_async_proxy();
    group_sync();
  }

  __device__ void multiply_scores() {
    const uint32_t k = shared + static_cast<uint32_t>(L::kK + k_stage.index * L::kMatrixBytes);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kHeadDim / 16; ++i) {
      const auto column = static_cast<uint32_t>((i % 4) * 32);
      wgmma_ss(s, wgmma_operand(query + (i / 4) * (kWgRows * 128) + column, 16),
               wgmma_operand(k + (i / 4) * (kTile * 128) + column, 16), i == 0 ? 0 : 1);
    }
    wgmma_commit();
  }
  __device__ void multiply_values() {
    const uint32_t v = shared + static_cast<uint32_t>(L::kV + v_stage.index * L::kMatrixBytes);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kTile / 16; ++i)
      wgmma_rs(o, weights[i], wgmma_operand(v + i * (16 * 128), kTile * 128));
    wgmma_commit();
  }
  __device__ void release(uint32_t barrier) const {
    if (thread % 32 == 0) barrier_arrive(barrier);
  }

  /// s -> exp2(scaled s - max); `keep` is what the sums so far are to be multiplied by. A row sees
  /// columns (limit - window, limit] of the tile.
  __device__ void softmax(const int (&limit)[2], bool masked, float (&keep)[2]) {
    const int c = thread % 4 * 2;
    if (masked) {
#pragma unroll
      for (int i = 0; i < kTile / 2; ++i) {
        const int column = i / 4 * 8 + c + i % 2;
        const int high = limit[i / 2 % 2];
        if (column > high || (p.window > 0 && column <= high - p.window)) s[i] = -INFINITY;
      }
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float next = max[j];
#pragma unroll
      for (int i = 0; i < kTile / 8; ++i)
        next = fmaxf(next, fmaxf(s[i * 4 + j * 2], s[i * 4 + j * 2 + 1]));
      next = fmaxf(next, __shfl_xor_sync(~0U, next, 1));
      next = fmaxf(next, __shfl_xor_sync(~0U, next, 2));
      const float reference = next == -INFINITY ? 0.0F : next * p.score_scale;
      keep[j] = fast_exp2(max[j] * p.score_scale - reference);
      max[j] = next;
      float added = 0;
#pragma unroll
      for (int i = 0; i < kTile / 8; ++i) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[i * 4 + j * 2 + e];
          x = fast_exp2(x * p.score_scale - reference);
          added += x;
        }
      }
      sum[j] = sum[j] * keep[j] + added;
    }
  }
  __device__ void pack_weights() {
#pragma unroll
    for (int i = 0; i < kTile / 16; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        weights[i][j] = pack2(s[i * 8 + j * 2], s[i * 8 + j * 2 + 1], __nv_bfloat16());
    }
  }

  template <class Last>
  __device__ void attend(const DeviceChunk& c, const Item& item, const Last& at_last) {
    const int lane = thread % 32;
    const int row = item.row_begin + wg * kWgRows + thread / 32 * 16 + lane / 4;
    const int prefix = c.context - c.n_tokens;
    const int position[2] = {prefix + row / p.group, prefix + (row + 8) / p.group};
    const int lowest = prefix + (item.row_begin + wg * kWgRows) / p.group;
    const int highest = prefix + (item.row_begin + wg * kWgRows + kWgRows - 1) / p.group;
    const int begin = first_tile(p, c, item);
    max[0] = max[1] = -INFINITY;
    sum[0] = sum[1] = 0;
#pragma unroll
    for (float& x : o) x = 0;
    if (begin >= item.tile_end) {
      at_last();
      return;
    }

    const auto softmax_of = [&](int t, float(&keep)[2]) {
      const int limit[2] = {position[0] - t * kTile, position[1] - t * kTile};
      const bool masked =
          t * kTile + kTile - 1 > lowest || (p.window > 0 && t * kTile <= highest - p.window);
      softmax(limit, masked, keep);
    };
    float keep[2];
    barrier_wait(barriers.full_k(k_stage.index), k_stage.parity);
    multiply_scores();
    wgmma_wait<0>(s);
    release(barriers.empty_k(k_stage.index));
    k_stage.next();
    softmax_of(item.tile_end - 1, keep);
    pack_weights();
    for (int t = item.tile_end - 2; t >= begin; --t) {
      barrier_wait(barriers.full_k(k_stage.index), k_stage.parity);
      multiply_scores();
      barrier_wait(barriers.full_v(v_stage.index), v_stage.parity);
      multiply_values();
      wgmma_wait<1>(s);
      release(barriers.empty_k(k_stage.index));
      k_stage.next();
      softmax_of(t, keep);
      wgmma_wait<0>(o);
      release(barriers.empty_v(v_stage.index));
      v_stage.next();
#pragma unroll
      for (int i = 0; i < kHeadDim / 2; ++i) o[i] *= keep[i / 2 % 2];
      pack_weights();
    }
    barrier_wait(barriers.full_v(v_stage.index), v_stage.parity);
    multiply_values();
    at_last();
    wgmma_wait<0>(o);
    release(barriers.empty_v(v_stage.index));
    v_stage.next();
  }

  __device__ void store(const DeviceChunk& c, const Item& item) {
    const int from = opaque(thread);
    const int lane = from % 32;
    const int warp_row = from / 32 * 16;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      sum[j] += __shfl_xor_sync(~0U, sum[j], 1);
      sum[j] += __shfl_xor_sync(~0U, sum[j], 2);
    }
    if (item.partial >= 0) {
      const int64_t first =
          static_cast<int64_t>(item.partial) * kRows + wg * kWgRows + warp_row + lane / 4;
#pragma unroll
      for (int i = 0; i < kHeadDim / 4; ++i) {
        const int64_t r = first + (i % 2) * 8;
        *reinterpret_cast<float2*>(p.partial + r * kHeadDim + i / 2 * 8 + lane % 4 * 2) = {
            o[i * 2], o[i * 2 + 1]};
      }
      if (lane % 4 == 0) {
        p.partial_max_sum[first] = {max[0] * p.score_scale, sum[0]};
        p.partial_max_sum[first + 8] = {max[1] * p.score_scale, sum[1]};
      }
      return;
    }
    const float scale[2] = {p.out_scale / sum[0], p.out_scale / sum[1]};
    group_sync();  // all warps are done with the query block, which now takes the output
#pragma unroll
    for (int i = 0; i < kHeadDim / 16; ++i) {
      uint32_t r[4];
#pragma unroll
      for (int j = 0; j < 4; ++j)
        r[j] = pack2(o[i * 8 + j * 2] * scale[j & 1], o[i * 8 + j * 2 + 1] * scale[j & 1],
                     __nv_bfloat16());
      stmatrix_x4(query_at(warp_row + lane % 16, i * 2 + lane / 16), r[0], r[1], r[2], r[3]);
    }
    group_sync();
#pragma unroll
    for (int i = 0; i < kQueryLoads; ++i) {
      const int at = i * 128 + from;
      const int64_t offset = row_offset(c, item, at / kChunks);
      uint4 x;
      asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                   : "r"(query_at(at / kChunks, at % kChunks))
                   : "memory");
      if (offset >= 0) *reinterpret_cast<uint4*>(p.out + offset + at % kChunks * 8) = x;
    }
  }

  __device__ void run() {
    Item item;
    DeviceChunk chunk;
    const auto fetch = [&](int turn) {  // of a turn that has an item for this block
      if (item_of(turn) >= p.n_items) return false;
      item = p.items[item_of(turn)];
      chunk = p.chunks[item.chunk];
      fetch_query(chunk, item);
      return true;
    };
    bool more = fetch(0);
    for (int turn = 1; more; ++turn) {
      const Item this_item = item;
      const DeviceChunk this_chunk = chunk;
      put_query();
      attend(this_chunk, this_item, [&] { more = fetch(turn); });
      store(this_chunk, this_item);
    }
  }
};

#endif  // TROUPE_HAS_WGMMA

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1) attend(const Params p) {
#ifdef TROUPE_HAS_WGMMA
  using L = Layout<kHeadDim>;
  extern __shared__ unsigned char memory[];
  const uint32_t shared = (shared_address(memory) + 1023U) & ~1023U;
  const Barriers barriers{shared + L::kBarriers};
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(barriers.full_k(s), 1);
      barrier_init(barriers.full_v(s), 1);
      barrier_init(barriers.empty_k(s), kConsumers * 4);
      barrier_init(barriers.empty_v(s), kConsumers * 4);
    }
    barrier_init_fence();
  }
  __syncthreads();
  grid_dependency_wait();
  grid_dependency_launch();
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  if (warpgroup == kConsumers) {
    registers_down<40>();
    Producer<kHeadDim>(p, shared, barriers).run();
  } else {
    registers_up<232>();
    Consumer<kHeadDim>(p, shared, barriers, warpgroup).run();
  }
#else
  __trap();
#endif
}

}  // namespace

Kernel attend_kernel(int32_t head_dim) {
  if (head_dim == 128) return {reinterpret_cast<const void*>(&attend<128>), Layout<128>::kBytes};
  return {reinterpret_cast<const void*>(&attend<64>), Layout<64>::kBytes};
}

}  // namespace troupe::cuda::prefill
