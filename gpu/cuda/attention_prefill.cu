#include "gpu/base/check.h"
#include "gpu/cuda/attention_launch.h"
#include "gpu/cuda/attention_prefill.cuh"
#include "gpu/cuda/device.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numbers>
#include <vector>

namespace troupe::cuda {
namespace prefill {
namespace {

constexpr int32_t kMinPieceTiles = 4;  // shorter pieces of a context are not worth their merge

constexpr int32_t kMinTiles = 256;  // of the tile buffer: contexts of several chunks together

int32_t div_up(int32_t a, int32_t b) { return (a + b - 1) / b; }

/// Chunks whose copies fit into the tile buffer together.
struct Round {
  int32_t chunk_begin = 0;
  int32_t n_chunks = 0;
  int32_t n_tiles = 0;  // per KV head
  int32_t item_begin = 0;
  int32_t n_items = 0;
  int32_t split_begin = 0;
  int32_t n_splits = 0;
};

struct Plan {
  std::vector<DeviceChunk> chunks;
  std::vector<Item> items;
  std::vector<Split> splits;
  std::vector<Round> rounds;
};

/// Pinned memory that plans are uploaded from, reused once its copy is done.
struct Staging {
  explicit Staging(size_t bytes) {
    TROUPE_CUDA(cudaMallocHost(&data, bytes));
    TROUPE_CUDA(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming));
  }
  ~Staging() {
    cudaEventDestroy(copied);
    cudaFreeHost(data);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  void* data = nullptr;
  cudaEvent_t copied = nullptr;
};

/// The items of a round, longest first. Contexts are cut into pieces when there are too few items
/// to fill `n_blocks`: at most 2 n_blocks partials.
void add_items(Plan& plan, Round& round, const AttentionShape& shape, int32_t n_blocks) {
  const int32_t group = shape.n_heads / shape.n_kv_heads;
  std::vector<Item> whole;  // of KV head 0
  int64_t work = 0;
  for (int32_t i = round.chunk_begin; i < round.chunk_begin + round.n_chunks; ++i) {
    const DeviceChunk& c = plan.chunks[static_cast<size_t>(i)];
    for (int32_t row = 0; row < c.n_tokens * group; row += kRows) {
      const int32_t last = std::min((row + kRows - 1) / group, c.n_tokens - 1);
      const int32_t tiles = (c.context - c.n_tokens + last) / kTile + 1;
      whole.push_back({i - round.chunk_begin, 0, row, 0, tiles, -1});
      work += tiles;
    }
  }
  work *= shape.n_kv_heads;
  const auto piece =
      std::max(kMinPieceTiles, static_cast<int32_t>((work + n_blocks - 1) / n_blocks));
  round.item_begin = static_cast<int32_t>(plan.items.size());
  round.split_begin = static_cast<int32_t>(plan.splits.size());
  int32_t partials = 0;
  for (const Item& item : whole) {
    const bool cut = 2 * item.tile_end > 3 * piece;
    const int32_t pieces = cut ? div_up(item.tile_end, piece) : 1;
    for (int32_t head = 0; head < shape.n_kv_heads; ++head) {
      if (cut) plan.splits.push_back({item.chunk, head, item.row_begin, partials, pieces});
      for (int32_t k = 0; k < pieces; ++k)
        plan.items.push_back({item.chunk, head, item.row_begin, k * item.tile_end / pieces,
                              (k + 1) * item.tile_end / pieces, cut ? partials++ : -1});
    }
  }
  TROUPE_CHECK(partials <= 2 * n_blocks) << partials;
  round.n_items = static_cast<int32_t>(plan.items.size()) - round.item_begin;
  round.n_splits = static_cast<int32_t>(plan.splits.size()) - round.split_begin;
  std::stable_sort(plan.items.begin() + round.item_begin, plan.items.end(),
                   [](const Item& a, const Item& b) {
                     return a.tile_end - a.tile_begin > b.tile_end - b.tile_begin;
                   });
}

Plan make_plan(std::span<const Chunk> chunks, const AttentionShape& shape, KvFormat format,
               int32_t tile_capacity, int32_t n_blocks) {
  const int32_t group = shape.n_heads / shape.n_kv_heads;
  Plan plan;
  Round round;
  const auto close_round = [&] {
    if (round.n_chunks == 0) return;
    add_items(plan, round, shape, n_blocks);
    plan.rounds.push_back(round);
    round = Round{};
    round.chunk_begin = static_cast<int32_t>(plan.chunks.size());
  };
  for (const Chunk& c : chunks) {
    if (c.n_tokens == 0) continue;
    TROUPE_CHECK(c.n_tokens <= c.context) << c.context;
    const bool direct = format == KvFormat::kBf16 && c.n_tokens * group <= kDirectRows;
    const int32_t n_tiles = direct ? 0 : div_up(c.context, kTile);
    TROUPE_CHECK(n_tiles <= tile_capacity) << c.context;
    if (round.n_tiles + n_tiles > tile_capacity) close_round();
    plan.chunks.push_back(
        {c.token_begin, c.n_tokens, c.context, c.row, round.n_tiles * shape.n_kv_heads, n_tiles});
    ++round.n_chunks;
    round.n_tiles += n_tiles;
  }
  close_round();
  return plan;
}

/// What a step of the largest size needs.
struct Sizes {
  int32_t n_blocks = 0;       // one on each multiprocessor
  int32_t tile_capacity = 0;  // per KV head
  size_t plan_bytes = 0;
  size_t tiles_bytes = 0;
  size_t partial_rows = 0;
};
Sizes sizes(const AttentionShape& shape, int32_t max_step_tokens, int32_t max_context) {
  Sizes out;
  int device = 0;
  TROUPE_CUDA(cudaGetDevice(&device));
  TROUPE_CUDA(cudaDeviceGetAttribute(&out.n_blocks, cudaDevAttrMultiProcessorCount, device));
  // At worst every token is a chunk of its own, and cut items come on top.
  const auto tokens = static_cast<size_t>(max_step_tokens);
  const auto heads = static_cast<size_t>(shape.n_kv_heads);
  const auto blocks = static_cast<size_t>(out.n_blocks);
  const auto group = static_cast<size_t>(shape.n_heads / shape.n_kv_heads);
  const size_t items =
      heads * (tokens + tokens * group / kRows + 1) + 2 * blocks * (tokens + 1) / 64;
  out.plan_bytes = tokens * sizeof(DeviceChunk) + items * (sizeof(Item) + sizeof(Split));
  out.tile_capacity =
      std::max(kMinTiles, div_up(max_context, kTile) + div_up(max_step_tokens, kTile));
  out.tiles_bytes = static_cast<size_t>(out.tile_capacity) * heads * tile_bytes(shape.head_dim);
  out.partial_rows = 2 * blocks * kRows;
  return out;
}

}  // namespace
}  // namespace prefill

struct PrefillAttention::Impl {
  Impl(const AttentionShape& s, KvFormat f, size_t plan_bytes)
      : shape(s),
        format(f),
        staging{prefill::Staging(plan_bytes), prefill::Staging(plan_bytes)},
        plan_memory(plan_bytes) {}
  AttentionShape shape;
  KvFormat format;
  int32_t n_blocks = 0;
  int32_t tile_capacity = 0;  // per KV head
  prefill::Kernel kernel;
  std::array<prefill::Staging, 2> staging;
  size_t turn = 0;
  DeviceBuffer<unsigned char> plan_memory;  // chunks, items, splits
  DeviceBuffer<unsigned char> tiles;
  DeviceBuffer<float> partial;
  DeviceBuffer<float2> partial_max_sum;

  std::vector<prefill::Round> rounds;
  size_t items_at = 0;  // offsets in plan_memory
  size_t splits_at = 0;
  SlotTable slots;
};

PrefillAttention::PrefillAttention(const AttentionShape& shape, KvFormat format,
                                   int32_t max_step_tokens, int32_t max_context) {
  const int32_t group = shape.n_heads / shape.n_kv_heads;
  TROUPE_CHECK(shape.n_heads % shape.n_kv_heads == 0 && group <= 16) << shape.n_heads;
  TROUPE_CHECK(shape.head_dim == 64 || shape.head_dim == 128) << shape.head_dim;
  const prefill::Sizes sizes = prefill::sizes(shape, max_step_tokens, max_context);
  int device = 0;
  int major = 0;
  TROUPE_CUDA(cudaGetDevice(&device));
  TROUPE_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  if (major != 9) throw DeviceError("prefill attention needs a GPU of compute capability 9.0");

  impl_ = std::make_unique<Impl>(shape, format, sizes.plan_bytes);
  Impl& d = *impl_;
  d.n_blocks = sizes.n_blocks;
  d.tile_capacity = sizes.tile_capacity;
  d.tiles = DeviceBuffer<unsigned char>(sizes.tiles_bytes);
  d.partial = DeviceBuffer<float>(sizes.partial_rows * static_cast<size_t>(shape.head_dim));
  d.partial_max_sum = DeviceBuffer<float2>(sizes.partial_rows);
  d.kernel = prefill::attend_kernel(shape.head_dim);
  TROUPE_CUDA(cudaFuncSetAttribute(d.kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(d.kernel.shared_bytes)));
}
PrefillAttention::~PrefillAttention() = default;

void PrefillAttention::plan(std::span<const Chunk> chunks, const SlotTable& slots,
                            cudaStream_t stream) {
  Impl& d = *impl_;
  prefill::Plan plan = prefill::make_plan(chunks, d.shape, d.format, d.tile_capacity, d.n_blocks);
  d.slots = slots;
  d.rounds = std::move(plan.rounds);
  if (d.rounds.empty()) return;
  const auto bytes = [](const auto& list) { return list.size() * sizeof(list[0]); };
  d.items_at = bytes(plan.chunks);
  d.splits_at = d.items_at + bytes(plan.items);
  const size_t size = d.splits_at + bytes(plan.splits);
  TROUPE_CHECK(size <= d.plan_memory.bytes()) << size;
  prefill::Staging& staging = d.staging[d.turn++ % d.staging.size()];
  TROUPE_CUDA(cudaEventSynchronize(staging.copied));
  auto* to = static_cast<unsigned char*>(staging.data);
  std::memcpy(to, plan.chunks.data(), bytes(plan.chunks));
  std::memcpy(to + d.items_at, plan.items.data(), bytes(plan.items));
  if (!plan.splits.empty()) std::memcpy(to + d.splits_at, plan.splits.data(), bytes(plan.splits));
  TROUPE_CUDA(cudaMemcpyAsync(d.plan_memory.data(), to, size, cudaMemcpyHostToDevice, stream));
  TROUPE_CUDA(cudaEventRecord(staging.copied, stream));
}

void PrefillAttention::run(__nv_bfloat16* out, const __nv_bfloat16* q, const KvLayer& kv,
                           float scale, int32_t window, cudaStream_t stream) {
  Impl& d = *impl_;
  TROUPE_CHECK(kv.format == d.format);
  const bool fp8 = d.format == KvFormat::kFp8;
  const unsigned char* memory = d.plan_memory.data();
  prefill::Params p;
  p.out = out;
  p.q = q;
  p.kv = kv.data;
  p.tiles = d.tiles.data();
  p.partial = d.partial.data();
  p.partial_max_sum = d.partial_max_sum.data();
  p.slots = d.slots.data;
  p.slots_stride = d.slots.stride;
  p.n_heads = d.shape.n_heads;
  p.n_kv_heads = d.shape.n_kv_heads;
  p.group = d.shape.n_heads / d.shape.n_kv_heads;
  p.window = window;
  p.score_scale = scale * (fp8 ? kv.k_scale : 1.0F) * std::numbers::log2e_v<float>;
  p.out_scale = fp8 ? kv.v_scale : 1.0F;
  for (const prefill::Round& r : d.rounds) {
    p.chunks = reinterpret_cast<const prefill::DeviceChunk*>(memory) + r.chunk_begin;
    p.items = reinterpret_cast<const prefill::Item*>(memory + d.items_at) + r.item_begin;
    p.splits = reinterpret_cast<const prefill::Split*>(memory + d.splits_at) + r.split_begin;
    p.n_chunks = r.n_chunks;
    p.n_items = r.n_items;
    if (r.n_tiles > 0) prefill::launch_gather(p, d.format, d.shape.head_dim, r.n_tiles, stream);
    const int32_t blocks = std::min(d.n_blocks, r.n_items);
    launch(d.kernel.function, dim3(static_cast<unsigned>(blocks)), prefill::kThreads,
           d.kernel.shared_bytes, &p, true, stream);
    if (r.n_splits > 0) prefill::launch_merge(p, d.shape.head_dim, r.n_splits, stream);
  }
}

size_t PrefillAttention::device_bytes(const AttentionShape& shape, int32_t max_step_tokens,
                                      int32_t max_context) {
  const prefill::Sizes s = prefill::sizes(shape, max_step_tokens, max_context);
  const size_t row = static_cast<size_t>(shape.head_dim) * sizeof(float) + sizeof(float2);
  return s.plan_bytes + s.tiles_bytes + s.partial_rows * row;
}

size_t PrefillAttention::workspace_bytes() const {
  const Impl& d = *impl_;
  return d.plan_memory.bytes() + d.tiles.bytes() + d.partial.bytes() + d.partial_max_sum.bytes();
}

}  // namespace troupe::cuda
