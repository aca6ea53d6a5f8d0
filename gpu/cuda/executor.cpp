#include "gpu/cuda/executor.h"

#include "gpu/base/check.h"
#include "gpu/communicator.h"
#include "gpu/cuda/capacity.h"
#include "gpu/cuda/cuda_executor.h"
#include "gpu/cuda/quantize.h"
#include "gpu/device/stream.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace troupe::cuda {
namespace {

/// A slice of the down matrix may begin at any multiple of this.
constexpr int64_t kFfnBlock = 32;
/// Taken while the rank is made: kernels, the libraries' own and the plans of attention.
constexpr size_t kLoadedLater = size_t{192} << 20;

template <class T>
std::vector<T> gather(const T& mine, Communicator& communicator) {
  Stream stream(1);
  std::vector<T> all(static_cast<size_t>(communicator.size()));
  communicator.all_gather(std::as_bytes(std::span(&mine, 1)),
                          std::as_writable_bytes(std::span(all)), stream);
  return all;
}

}  // namespace

Llama::Limits CudaExecutor::limits(const ModelConfig& config, const ExecutorOptions& options,
                                   const Variant& variant) {
  Llama::Limits l;
  l.max_tokens = std::max(options.max_step_tokens, options.max_rows);
  l.max_sampled = options.max_rows;
  l.max_rows = options.max_rows;
  l.max_context = options.max_context > 0 ? std::min(options.max_context, config.max_context)
                                          : config.max_context;
  l.batch_invariant = variant.batch_invariant;
  return l;
}

StepState::Limits CudaExecutor::state_limits(const ModelConfig& config, const Shard& shard,
                                             const ExecutorOptions& options, const Variant& variant,
                                             int32_t n_ranks) {
  const Llama::Limits l = limits(config, options, variant);
  const auto slice = static_cast<int32_t>(shard.vocab.size());
  return {l.max_rows, l.max_tokens, l.max_context, n_ranks > 1 ? config.vocab : slice};
}

CudaExecutor::CudaExecutor(const ModelConfig& config, const Shard& shard,
                           const ExecutorOptions& options, const Variant& variant,
                           std::unique_ptr<Weights> weights, Communicator& communicator)
    : communicator_(communicator),
      config_(config),
      shard_(shard),
      options_(options),
      variant_(variant),
      shape_(Llama::attention_shape(config, shard)),
      kv_format_(options.fp8_kv ? KvFormat::kFp8 : KvFormat::kBf16),
      model_(config, shard, std::move(weights), kv_format_, limits(config, options, variant),
             communicator),
      state_(state_limits(config, shard, options, variant, communicator.size())),
      sampler_(options.max_rows, state_.limits().vocab),
      first_token_(communicator.size() > 1 ? 0 : static_cast<int32_t>(shard.vocab.begin)),
      buckets_(decode_buckets(options.max_rows)),
      rows_(static_cast<size_t>(options.max_rows)) {}

CudaExecutor::~CudaExecutor() {
  // A step that waits for a lost peer ends only when the communicator notices.
  while (cudaStreamQuery(stream_.get()) == cudaErrorNotReady) {
    try {
      communicator_.check();
    } catch (const DeviceError&) {  // known already, or nobody waits for a result
    }
    std::this_thread::yield();
  }
}

// ---- start --------------------------------------------------------------------------------------

Status CudaExecutor::make_pool(int32_t n_slots) {
  const StepState::Limits& l = state_.limits();
  pool_ = std::make_unique<KvPool>(config_.n_layers, l.max_tokens, shape_, kv_format_);
  StepPlan plan;
  plan.opened.push_back({0, 1, {}, {}, {}});
  const int32_t n = std::min(l.max_tokens, l.max_context);
  plan.work.push_back({0, n, false, true});
  plan.tokens.resize(static_cast<size_t>(n));
  plan.slots.resize(static_cast<size_t>(n));
  std::iota(plan.slots.begin(), plan.slots.end(), 0);
  run(plan);
  reset();
  last_end_ns_ = 0;
  pool_.reset();

  DeviceInfo device;
  TROUPE_CUDA(cudaMemGetInfo(&device.free_bytes, &device.total_bytes));
  const size_t per_slot = KvPool::bytes_per_slot(config_.n_layers, shape_, kv_format_);
  const size_t margin = margin_bytes(device.total_bytes);
  const size_t room = device.free_bytes > margin ? device.free_bytes - margin : 0;
  const auto mine = static_cast<int64_t>(room / per_slot) - 1;
  const std::vector<int64_t> everyones = gather(mine, communicator_);
  const int64_t fitting = *std::min_element(everyones.begin(), everyones.end());
  if (fitting < std::max(n_slots, 1)) {
    if (mine >= std::max(n_slots, 1))
      return fail(ErrorCode::kOutOfMemory,
                  "another rank of the replica has room for " + std::to_string(fitting) +
                      " KV tokens only; its own message has the numbers",
                  "kv_tokens");
    const Result<DeviceInfo> now = use_device(options_.device_index);
    if (!now) return now.error();
    return check_fit(*now, {0, 0, 0, per_slot}, std::max(n_slots, 1));
  }
  if (n_slots == 0) {  // more than all rows can use would be waste
    const int64_t usable = int64_t{l.max_rows} * l.max_context;
    n_slots = static_cast<int32_t>(
        std::min({fitting, usable, int64_t{std::numeric_limits<int32_t>::max() / 2}}));
  }
  pool_ = std::make_unique<KvPool>(config_.n_layers, n_slots, shape_, kv_format_);
  return ok_status();
}

void CudaExecutor::randomise_pool() {
  const int32_t per_slot = 2 * shape_.n_kv_heads * shape_.head_dim;
  constexpr int32_t kSlots = 8192;
  const DeviceBuffer<__nv_bfloat16> values(static_cast<size_t>(kSlots) *
                                           static_cast<size_t>(per_slot));
  const DeviceBuffer<float> scales(kSlots);
  cudaStream_t stream = stream_.get();
  fill_normal(values.data(), static_cast<int64_t>(values.size()), 1.0F, 1, stream);
  const size_t value_bytes = kv_format_ == KvFormat::kFp8 ? 1 : 2;
  for (int32_t layer = 0; layer < config_.n_layers; ++layer) {
    for (int32_t slot = 0; slot < pool_->n_slots(); slot += kSlots) {
      const int32_t n = std::min(kSlots, pool_->n_slots() - slot);
      auto* to = static_cast<std::byte*>(pool_->layer(layer).data) +
                 static_cast<size_t>(slot) * static_cast<size_t>(per_slot) * value_bytes;
      if (kv_format_ == KvFormat::kFp8)
        quantize_rows(reinterpret_cast<uint8_t*>(to), scales.data(), values.data(), n, per_slot,
                      stream);
      else
        TROUPE_CUDA(cudaMemcpyAsync(to, values.data(),
                                    static_cast<size_t>(n) * static_cast<size_t>(per_slot) * 2,
                                    cudaMemcpyDeviceToDevice, stream));
    }
  }
  TROUPE_CUDA(cudaStreamSynchronize(stream));
}

void CudaExecutor::tune(const std::string& table) {
  // Shares are mostly of one shape: the others read what the first rank has found.
  const bool in_turn = communicator_.size() > 1 && !table.empty();
  if (in_turn && communicator_.rank() != 0) gather(0, communicator_);
  if (!table.empty()) model_.linear().load_table(table);
  if (variant_.shipped_tune) model_.linear().load_shipped_table();
  for (const int32_t n : buckets_) model_.tune(n, n, stream_.get());
  // Under load most steps with prefill are as large as they may be.
  const int32_t largest = state_.limits().max_tokens;
  for (int32_t n = 512; n < largest; n *= 2) model_.tune(n, 1, stream_.get());
  model_.tune(largest, 1, stream_.get());
  if (!table.empty() && communicator_.rank() == 0) model_.linear().save_table(table);
  if (in_turn && communicator_.rank() == 0) gather(0, communicator_);
}

void CudaExecutor::capture() {
  size_t before = 0;
  size_t after = 0;
  size_t total = 0;
  TROUPE_CUDA(cudaMemGetInfo(&before, &total));
  // Largest first, so that whatever the driver keeps for the first serves the others.
  for (auto n = buckets_.rbegin(); n != buckets_.rend(); ++n)
    graphs_.emplace(*n, Graph(stream_.get(), [&] { launch_decode(*n); }));
  TROUPE_CUDA(cudaStreamSynchronize(stream_.get()));
  TROUPE_CUDA(cudaMemGetInfo(&after, &total));
  graph_bytes_ = before > after ? before - after : 0;
}

Executor::Memory CudaExecutor::memory() const {
  Memory m;
  m.weights = static_cast<int64_t>(model_.weight_bytes());
  m.kv = static_cast<int64_t>(pool_->bytes());
  m.workspace =
      static_cast<int64_t>(model_.workspace_bytes() + StepState::device_bytes(state_.limits()) +
                           Sampler::device_bytes(options_.max_rows) + graph_bytes_);
  return m;
}

namespace {

/// What one rank does by itself: check, load, choose kernels.
Result<std::unique_ptr<CudaExecutor>> load_share(const Checkpoint& checkpoint,
                                                 const ExecutorOptions& options,
                                                 Communicator& communicator,
                                                 const Variant& variant) {
  const ModelConfig& config = checkpoint.config();
  const int32_t n_ranks = communicator.size();
  const int32_t n_shares = std::max(n_ranks, variant.share_of);
  const Result<DeviceInfo> device = use_device(options.device_index);
  if (!device) return device.error();
  const Shard shard = make_shard(config, kFfnBlock, communicator.rank(), n_shares);
  if (const Status fits = check_model(config, shard, n_shares); !fits) return fits.error();

  const Result<WeightFormat> stored = options.stored_weights ? stored_format(checkpoint)
                                      : options.fp8_weights  ? WeightFormat::kFp8
                                                             : WeightFormat::kBf16;
  if (!stored) return stored.error();
  const WeightFormat format = *stored;
  const AttentionShape shape = Llama::attention_shape(config, shard);
  const Llama::Limits limits = CudaExecutor::limits(config, options, variant);
  DeviceNeed need;
  need.weights = Weights::bytes(config, shard, format);
  if (format == WeightFormat::kBf16)
    need.weights_fp8 = Weights::bytes(config, shard, WeightFormat::kFp8);
  need.workspace = Llama::activation_bytes(config, shard, limits, n_ranks) +
                   StepState::device_bytes(
                       CudaExecutor::state_limits(config, shard, options, variant, n_ranks)) +
                   Sampler::device_bytes(options.max_rows) + Llama::kLinearWorkspace +
                   PrefillAttention::device_bytes(shape, limits.max_tokens, limits.max_context) +
                   kLoadedLater;
  need.kv_per_slot = KvPool::bytes_per_slot(config.n_layers, shape,
                                            options.fp8_kv ? KvFormat::kFp8 : KvFormat::kBf16);
  const int32_t least_slots = options.n_slots > 0 ? options.n_slots : limits.max_tokens;
  if (const Status fits = check_fit(*device, need, least_slots); !fits) return fits.error();

  // Biases of row-parallel layers are added after the all-reduce, by every rank.
  auto weights = options.dummy_weights ? Weights::random(config, shard, format)
                                       : Weights::load(checkpoint, shard, true, format);
  if (!weights) return weights.error();
  auto executor = std::make_unique<CudaExecutor>(config, shard, options, variant,
                                                 std::move(weights).value(), communicator);
  if (variant.tune) executor->tune(options.tune_file);  // needs room that the pool will take
  return executor;
}

}  // namespace

Result<std::unique_ptr<Executor>> make_executor(const Checkpoint& checkpoint,
                                                const ExecutorOptions& options,
                                                Communicator& communicator,
                                                const Variant& variant) {
  const ModelConfig& config = checkpoint.config();
  if (options.n_slots < 0 || options.max_rows < 1 || options.max_step_tokens < 1 ||
      options.max_context < 0)
    return fail(ErrorCode::kInvalidArgument,
                "rows and step tokens must be 1 or more, KV tokens and context not negative");
  const int32_t n_shares = std::max(communicator.size(), variant.share_of);
  if (n_shares > std::min(config.n_heads, VocabularySplit::kMaxRanks) ||
      (communicator.size() > 1 && variant.share_of > 1))
    return fail(ErrorCode::kInvalidArgument,
                "--tp " + std::to_string(n_shares) + " is more than the model's " +
                    std::to_string(config.n_heads) + " attention heads or " +
                    std::to_string(VocabularySplit::kMaxRanks),
                "tp");
  Result<std::unique_ptr<CudaExecutor>> executor = fail(ErrorCode::kInternal, "");
  try {
    executor = load_share(checkpoint, options, communicator, variant);
  } catch (const DeviceError& e) {
    executor = fail(ErrorCode::kInternal, e.what());
  }
  // A rank alone would wait for the others in its first step, so all fail when one does.
  const std::vector<int32_t> failed = gather(int32_t{executor ? 0 : 1}, communicator);
  if (!executor) return executor.error();
  for (size_t r = 0; r < failed.size(); ++r)
    if (failed[r] != 0)
      return fail(ErrorCode::kInternal, "rank " + std::to_string(r) + " of the replica could not " +
                                            "load; its own message names the cause");
  CudaExecutor& made = **executor;
  if (const Status fits = made.make_pool(options.n_slots); !fits) return fits.error();
  if (variant.random_pool) made.randomise_pool();
  if (variant.graphs) made.capture();
  return std::unique_ptr<Executor>(std::move(executor).value());
}

Result<std::unique_ptr<Executor>> make_executor(const Checkpoint& checkpoint,
                                                const ExecutorOptions& options,
                                                Communicator& communicator) {
  return make_executor(checkpoint, options, communicator, Variant{});
}

}  // namespace troupe::cuda
