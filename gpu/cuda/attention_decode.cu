#include "gpu/base/check.h"
#include "gpu/cuda/attention_decode.cuh"
#include "gpu/cuda/attention_launch.h"
#include "gpu/cuda/attention_ptx.cuh"
#include "gpu/cuda/device.h"

#include <numbers>

namespace troupe::cuda {
namespace decode {
namespace {

constexpr int kPlanThreads = 512;

struct PlanParams {
  RowPlan* rows = nullptr;      // [n_rows]
  BlockPlan* blocks = nullptr;  // [n_blocks]
  const int32_t* row = nullptr;
  const int32_t* context = nullptr;
  int32_t n_rows = 0;
  int32_t n_blocks = 0;
  int32_t n_kv_heads = 0;
  int32_t tile = 0;
  int32_t window = 0;
  bool batch_invariant = false;
};

__device__ int div_up(int a, int b) { return (a + b - 1) / b; }

__device__ RowPlan plan_row(const PlanParams& p, int i) {
  RowPlan r;
  r.context = p.context[i];
  r.table_row = p.row[i];
  r.begin = p.window > 0 && r.context > p.window ? r.context - p.window : 0;
  r.n_tiles = div_up(r.context - r.begin, p.tile);
  r.unit_tiles = p.batch_invariant ? max(kUnitTokens / p.tile, div_up(r.n_tiles, kMaxUnits)) : 1;
  r.n_units = div_up(r.n_tiles, r.unit_tiles);
  return r;
}

/// Sum of `value` over the threads before this one; *total gets the sum over all.
__device__ int exclusive_scan(int value, int* total) {
  __shared__ int warp_sum[kPlanThreads / 32];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  int inclusive = value;
  for (int o = 1; o < 32; o *= 2) {
    const int below = __shfl_up_sync(~0U, inclusive, o);
    if (lane >= o) inclusive += below;
  }
  __syncthreads();  // the last call's readers are done
  if (lane == 31) warp_sum[warp] = inclusive;
  __syncthreads();
  int before = 0;
  *total = 0;
  for (int w = 0; w < kPlanThreads / 32; ++w) {
    if (w == warp) before = *total;
    *total += warp_sum[w];
  }
  return before + inclusive - value;
}

/// One block: lays the rows' units in a line and cuts it into equal pieces, one per block.
__global__ void __launch_bounds__(kPlanThreads) plan_kernel(const PlanParams p) {
  grid_dependency_wait();
  const int t = static_cast<int>(threadIdx.x);
  int total = 0;
  for (int first = 0; first < p.n_rows; first += kPlanThreads) {
    const int i = first + t;
    RowPlan r;
    if (i < p.n_rows) r = plan_row(p, i);
    int sum = 0;
    r.unit_base = total + exclusive_scan(r.n_units * p.n_kv_heads, &sum);
    if (i < p.n_rows) p.rows[i] = r;
    total += sum;
  }
  const int per_block = max(div_up(total, p.n_blocks), 1);
  __syncthreads();  // the rows are written
  for (int b = t; b < p.n_blocks; b += kPlanThreads) {
    BlockPlan block;
    block.units_per_block = per_block;
    const int begin = b * per_block;
    if (begin < total) {
      int low = 0;  // the last row with unit_base <= begin: it has units, padding after it has not
      int high = p.n_rows;
      while (high - low > 1) {
        const int middle = (low + high) / 2;
        (p.rows[middle].unit_base <= begin ? low : high) = middle;
      }
      block.row = low;
      block.first_row = p.rows[low];
      block.head = (begin - block.first_row.unit_base) / block.first_row.n_units;
      block.unit = (begin - block.first_row.unit_base) % block.first_row.n_units;
      block.n_units = min(per_block, total - begin);
    }
    p.blocks[b] = block;
  }
}

int32_t count_blocks() {
  int device = 0;
  int multiprocessors = 0;
  TROUPE_CUDA(cudaGetDevice(&device));
  TROUPE_CUDA(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  return 2 * multiprocessors;
}

}  // namespace
}  // namespace decode

struct DecodeAttention::Impl {
  AttentionShape shape;
  KvFormat format = KvFormat::kBf16;
  Options options;
  decode::Kernel kernel;
  int32_t n_blocks = 0;
  bool fresh_plan = true;  // the next run() reads it first: no overlap with the plan kernel
  DeviceBuffer<decode::RowPlan> rows;
  DeviceBuffer<decode::BlockPlan> blocks;
  DeviceBuffer<float> partial;
  DeviceBuffer<float2> partial_max_sum;
  DeviceBuffer<uint32_t> tickets;
};

DecodeAttention::DecodeAttention(const AttentionShape& shape, KvFormat format,
                                 const Options& options)
    : impl_(std::make_unique<Impl>()) {
  const int32_t group = shape.n_heads / shape.n_kv_heads;
  TROUPE_CHECK(shape.n_heads % shape.n_kv_heads == 0 && group <= 16) << shape.n_heads;
  TROUPE_CHECK(shape.head_dim == 64 || shape.head_dim == 128) << shape.head_dim;
  Impl& d = *impl_;
  d.shape = shape;
  d.format = format;
  d.options = options;
  d.kernel = format == KvFormat::kFp8 ? decode::kernel_fp8(shape.head_dim, group)
                                      : decode::kernel_bf16(shape.head_dim, group);
  TROUPE_CUDA(cudaFuncSetAttribute(d.kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(d.kernel.shared_bytes)));
  d.n_blocks = decode::count_blocks();
  const auto max_rows = static_cast<size_t>(options.max_rows);
  const size_t pairs = max_rows * static_cast<size_t>(shape.n_kv_heads);
  const size_t partials =
      options.batch_invariant ? pairs * decode::kMaxUnits : 2 * static_cast<size_t>(d.n_blocks);
  d.rows = DeviceBuffer<decode::RowPlan>(max_rows);
  d.blocks = DeviceBuffer<decode::BlockPlan>(static_cast<size_t>(d.n_blocks));
  d.partial_max_sum = DeviceBuffer<float2>(partials * static_cast<size_t>(group));
  d.partial = DeviceBuffer<float>(partials * static_cast<size_t>(group * shape.head_dim));
  d.tickets = DeviceBuffer<uint32_t>(pairs);
  TROUPE_CUDA(cudaMemset(d.tickets.data(), 0, d.tickets.bytes()));
}
DecodeAttention::~DecodeAttention() = default;

void DecodeAttention::plan(const DecodeBatch& batch, cudaStream_t stream, int32_t window) {
  const Impl& d = *impl_;
  TROUPE_CHECK(batch.n_rows <= d.options.max_rows) << batch.n_rows;
  if (batch.n_rows == 0) return;
  decode::PlanParams p;
  p.rows = d.rows.data();
  p.blocks = d.blocks.data();
  p.row = batch.row;
  p.context = batch.context;
  p.n_rows = batch.n_rows;
  p.n_blocks = d.n_blocks;
  p.n_kv_heads = d.shape.n_kv_heads;
  p.tile = decode::tile_tokens(d.format, d.shape.head_dim);
  p.window = window;
  p.batch_invariant = d.options.batch_invariant;
  launch(reinterpret_cast<const void*>(&decode::plan_kernel), dim3(1), decode::kPlanThreads, 0, &p,
         true, stream);
  impl_->fresh_plan = true;
}

void DecodeAttention::run(__nv_bfloat16* out, const __nv_bfloat16* q, const KvLayer& kv,
                          const DecodeBatch& batch, float scale, int32_t window,
                          cudaStream_t stream) {
  Impl& d = *impl_;
  TROUPE_CHECK(kv.format == d.format);
  if (batch.n_rows == 0) return;
  const bool fp8 = d.format == KvFormat::kFp8;
  decode::Params p;
  p.out = out;
  p.q = q;
  p.kv = kv.data;
  p.rows = d.rows.data();
  p.blocks = d.blocks.data();
  p.partial = d.partial.data();
  p.partial_max_sum = d.partial_max_sum.data();
  p.tickets = d.tickets.data();
  p.slots = batch.slots.data;
  p.slots_stride = batch.slots.stride;
  p.n_heads = d.shape.n_heads;
  p.n_kv_heads = d.shape.n_kv_heads;
  p.group = d.shape.n_heads / d.shape.n_kv_heads;
  p.window = window;
  p.score_scale = scale * (fp8 ? kv.k_scale : 1.0F) * std::numbers::log2e_v<float>;
  p.out_scale = fp8 ? kv.v_scale : 1.0F;
  p.batch_invariant = d.options.batch_invariant;
  launch(d.kernel.function, dim3(static_cast<unsigned>(d.n_blocks)), d.kernel.threads,
         d.kernel.shared_bytes, &p, !d.fresh_plan, stream);
  d.fresh_plan = false;
}

size_t DecodeAttention::workspace_bytes() const {
  const Impl& d = *impl_;
  return d.rows.bytes() + d.blocks.bytes() + d.partial.bytes() + d.partial_max_sum.bytes() +
         d.tickets.bytes();
}

}  // namespace troupe::cuda
