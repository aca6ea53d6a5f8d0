#include "gpu/cuda/executor.h"

#include "gpu/base/check.h"
#include "gpu/communicator.h"
#include "gpu/cuda/capacity.h"
#include "gpu/cuda/llama.h"
#include "gpu/cuda/quantize.h"
#include "gpu/cuda/sampler.h"
#include "gpu/cuda/step_state.h"
#include "gpu/step_digest.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace troupe::cuda {
namespace {

using Clock = std::chrono::steady_clock;

/// A slice of the down matrix may begin at any multiple of this.
constexpr int64_t kFfnBlock = 32;
/// A step that takes longer will never end.
constexpr std::chrono::seconds kLongestStep{120};

uint32_t microseconds(uint64_t from_ns, uint64_t to_ns) {
  const uint64_t us = to_ns > from_ns ? (to_ns - from_ns) / 1000 : 0;
  return static_cast<uint32_t>(std::min<uint64_t>(us, std::numeric_limits<uint32_t>::max()));
}

class CudaStream {
 public:
  CudaStream() { TROUPE_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~CudaStream() { cudaStreamDestroy(stream_); }
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  [[nodiscard]] cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// A captured decode step.
class Graph {
 public:
  template <class Body>
  Graph(cudaStream_t stream, const Body& body) {
    cudaGraph_t graph = nullptr;
    TROUPE_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    body();
    TROUPE_CUDA(cudaStreamEndCapture(stream, &graph));
    const cudaError_t made = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    TROUPE_CUDA(made);
    TROUPE_CUDA(cudaGraphUpload(executable_, stream));
  }
  ~Graph() {
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
  }
  Graph(Graph&& other) noexcept : executable_(std::exchange(other.executable_, nullptr)) {}
  Graph& operator=(Graph&&) = delete;
  void launch(cudaStream_t stream) const { TROUPE_CUDA(cudaGraphLaunch(executable_, stream)); }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

struct Row {
  bool live = false;
  bool sampled = false;  // has a last token
  int32_t length = 0;    // positions so far
};

/// A step on its way.
struct Pending {
  StepPlan plan;
  uint64_t index = 0;            // the device's count of steps before it
  std::vector<int32_t> samples;  // of each result, in the plan's order: its place on the device
};

/// The rank. Steps are described in pinned memory, launched without waiting, and end by themselves:
/// between two decode steps the host only writes one ring entry and launches one graph.
class CudaExecutor final : public Executor {
 public:
  CudaExecutor(const ModelConfig& config, const Shard& shard, const ExecutorOptions& options,
               const Variant& variant, std::unique_ptr<Weights> weights);
  ~CudaExecutor() override { cudaStreamSynchronize(stream_.get()); }

  static Llama::Limits limits(const ModelConfig& config, const ExecutorOptions& options,
                              const Variant& variant);
  static StepState::Limits state_limits(const ModelConfig& config, const Shard& shard,
                                        const ExecutorOptions& options, const Variant& variant);
  /// Runs a step of the largest size against a pool that is just large enough, then makes the real
  /// pool: `n_slots`, or what is left for 0. kOutOfMemory when too little is.
  Status make_pool(int32_t n_slots);
  void randomise_pool();
  void tune(const std::string& table);
  void capture();

  void enqueue(const StepPlan& plan) override;
  [[nodiscard]] bool ready() const override;
  StepResult collect() override;
  void reset() override;
  [[nodiscard]] int32_t n_slots() const override { return pool_->n_slots(); }
  [[nodiscard]] Memory memory() const override;

 private:
  Row& live_row(int32_t row);
  void check_ids(std::span<const int32_t> list, int32_t limit) const;
  void open(const OpenRow& opened);
  void close(int32_t row);
  /// Fills the ring entry and returns what forward() needs; decode rows come first.
  StepInput lay_out(const StepPlan& plan, Pending& pending);
  void launch_step(const StepInput& input);
  void launch_decode(int32_t bucket);
  [[nodiscard]] int32_t bucket_of(int32_t n_rows) const;
  [[nodiscard]] bool ended(uint64_t index) const;
  void check_device() const;

  ModelConfig config_;
  Shard shard_;
  ExecutorOptions options_;
  Variant variant_;
  AttentionShape shape_;
  KvFormat kv_format_;
  CudaStream stream_;
  Llama model_;
  StepState state_;
  Sampler sampler_;
  std::unique_ptr<KvPool> pool_;
  std::vector<int32_t> buckets_;
  std::map<int32_t, Graph> graphs_;
  size_t graph_bytes_ = 0;

  std::vector<Row> rows_;
  std::deque<Pending> pending_;
  uint64_t n_enqueued_ = 0;  // steps, ever
  uint64_t last_end_ns_ = 0;
  std::vector<Chunk> chunks_;
  mutable Clock::time_point next_check_;
};

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
                                             const ExecutorOptions& options,
                                             const Variant& variant) {
  const Llama::Limits l = limits(config, options, variant);
  return {l.max_rows, l.max_tokens, l.max_context, static_cast<int32_t>(shard.vocab.size())};
}

CudaExecutor::CudaExecutor(const ModelConfig& config, const Shard& shard,
                           const ExecutorOptions& options, const Variant& variant,
                           std::unique_ptr<Weights> weights)
    : config_(config),
      shard_(shard),
      options_(options),
      variant_(variant),
      shape_(Llama::attention_shape(config, shard)),
      kv_format_(options.fp8_kv ? KvFormat::kFp8 : KvFormat::kBf16),
      model_(config, shard, std::move(weights), kv_format_, limits(config, options, variant)),
      state_(state_limits(config, shard, options, variant)),
      sampler_(options.max_rows, static_cast<int32_t>(shard.vocab.size())),
      buckets_(decode_buckets(options.max_rows)),
      rows_(static_cast<size_t>(options.max_rows)) {}

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
  const auto fitting = static_cast<int64_t>(room / per_slot) - 1;
  if (fitting < std::max(n_slots, 1)) {
    const Result<DeviceInfo> now = find_device();
    if (!now) return now.error();
    return check_fit(*now, {0, 0, per_slot}, std::max(n_slots, 1));
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
  if (!table.empty()) model_.linear().load_table(table);
  for (const int32_t n : buckets_) model_.tune(n, n, stream_.get());
  // Under load most steps with prefill are as large as they may be.
  const int32_t largest = state_.limits().max_tokens;
  for (int32_t n = 512; n < largest; n *= 2) model_.tune(n, 1, stream_.get());
  model_.tune(largest, 1, stream_.get());
  if (!table.empty()) model_.linear().save_table(table);
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

// ---- rows ---------------------------------------------------------------------------------------

Row& CudaExecutor::live_row(int32_t row) {
  TROUPE_CHECK(row >= 0 && row < options_.max_rows) << row << " of " << options_.max_rows;
  Row& r = rows_[static_cast<size_t>(row)];
  TROUPE_CHECK(r.live) << "row " << row << " is not open";
  return r;
}

void CudaExecutor::check_ids(std::span<const int32_t> list, int32_t limit) const {
  for (const int32_t id : list) TROUPE_CHECK(id >= 0 && id < limit) << id << " of " << limit;
}

void CudaExecutor::close(int32_t row) { live_row(row) = Row{}; }

void CudaExecutor::open(const OpenRow& opened) {
  const int32_t row = opened.row;
  TROUPE_CHECK(row >= 0 && row < options_.max_rows) << row << " of " << options_.max_rows;
  Row& r = rows_[static_cast<size_t>(row)];
  TROUPE_CHECK(!r.live) << "row " << row << " is open already";
  TROUPE_CHECK(opened.prefix_slots.size() == opened.prefix_tokens.size())
      << opened.prefix_slots.size() << " slots, " << opened.prefix_tokens.size() << " tokens";
  TROUPE_CHECK(opened.prefix_slots.size() <= static_cast<size_t>(state_.limits().max_context))
      << opened.prefix_slots.size();
  check_ids(opened.prefix_slots, pool_->n_slots());
  check_ids(opened.prefix_tokens, config_.vocab);
  r.live = true;
  r.length = static_cast<int32_t>(opened.prefix_slots.size());
  state_.open_row(n_enqueued_, row, opened.sampling, opened.n_prompt, opened.prefix_slots,
                  opened.prefix_tokens, stream_.get());
}

void CudaExecutor::reset() {
  TROUPE_CHECK(pending_.empty()) << pending_.size() << " steps are enqueued";
  for (Row& row : rows_) row = Row{};
}

// ---- a step -------------------------------------------------------------------------------------

StepInput CudaExecutor::lay_out(const StepPlan& plan, Pending& pending) {
  check_ids(plan.slots, pool_->n_slots());
  check_ids(plan.tokens, config_.vocab);
  const auto n_tokens = static_cast<int32_t>(plan.slots.size());
  TROUPE_CHECK(n_tokens <= state_.limits().max_tokens) << n_tokens;
  int32_t n_single = 0;
  for (const RowWork& work : plan.work) n_single += work.n_tokens == 1 ? 1 : 0;
  TROUPE_CHECK(n_single <= options_.max_rows) << n_single;
  const bool pure = n_single == n_tokens;  // a decode step: sample i belongs to token i

  const auto tokens = state_.tokens(n_enqueued_);
  const auto samples = state_.samples(n_enqueued_);
  chunks_.clear();
  size_t slot = 0;
  size_t given = 0;
  int32_t next_single = 0;
  int32_t next_chunk = n_single;
  int32_t n_samples = 0;
  for (const RowWork& work : plan.work) {
    Row& row = live_row(work.row);
    const int32_t n = work.n_tokens;
    TROUPE_CHECK(n >= 1) << "row " << work.row << ": " << n;
    TROUPE_CHECK(slot + static_cast<size_t>(n) <= plan.slots.size())
        << plan.slots.size() << " slots are too few at row " << work.row;
    TROUPE_CHECK(row.length + n <= state_.limits().max_context)
        << "row " << work.row << ": " << row.length << " + " << n;
    if (work.from_last_sample)
      TROUPE_CHECK(n == 1 && row.sampled) << "row " << work.row << ": " << n << " tokens";
    else
      TROUPE_CHECK(given + static_cast<size_t>(n) <= plan.tokens.size())
          << plan.tokens.size() << " tokens are too few at row " << work.row;
    int32_t& at = n == 1 ? next_single : next_chunk;
    const int32_t begin = at;
    for (int32_t i = 0; i < n; ++i) {
      const int32_t token = work.from_last_sample ? -1 : plan.tokens[given++];
      tokens[static_cast<size_t>(at++)] = {work.row, token, row.length++, plan.slots[slot++]};
    }
    if (n > 1) chunks_.push_back({work.row, begin, n, row.length});
    if (!work.sample) {
      if (pure) samples[static_cast<size_t>(begin)] = StepSample{};
      continue;
    }
    const int32_t s = pure ? begin : n_samples++;
    TROUPE_CHECK(s < options_.max_rows) << s;
    samples[static_cast<size_t>(s)] = {work.row, row.length, at - 1, 0};
    pending.samples.push_back(s);
    row.sampled = true;
  }
  TROUPE_CHECK(slot == plan.slots.size() && given == plan.tokens.size())
      << slot << " of " << plan.slots.size() << " slots, " << given << " of " << plan.tokens.size()
      << " tokens";

  const StepState::Device& d = state_.device();
  StepInput input = {n_tokens, d.token, d.position, d.slot, {}, chunks_, n_samples, d.sampled};
  if (pure && n_tokens > 0) {
    const int32_t bucket = bucket_of(n_tokens);
    const int32_t spare = pool_->n_slots();
    for (auto i = static_cast<size_t>(n_tokens); i < static_cast<size_t>(bucket); ++i) {
      tokens[i] = {-1, 0, 0, spare};
      samples[i] = StepSample{};
    }
    input.n_tokens = input.n_sampled = bucket;
    input.sampled = nullptr;
    n_single = bucket;
  }
  input.decode = state_.decode_batch(n_single);
  return input;
}

int32_t CudaExecutor::bucket_of(int32_t n_rows) const {
  return *std::lower_bound(buckets_.begin(), buckets_.end(), n_rows);
}

void CudaExecutor::launch_step(const StepInput& input) {
  cudaStream_t stream = stream_.get();
  state_.begin_step(input.n_tokens, input.decode.n_rows, input.n_sampled, stream);
  model_.forward(input, *pool_, stream);
  sampler_.run(model_.logits(), input.n_sampled, state_.device(), stream);
}

/// The same kernels for every decode step of this many rows, padding included.
void CudaExecutor::launch_decode(int32_t bucket) {
  const StepState::Device& d = state_.device();
  launch_step(
      {bucket, d.token, d.position, d.slot, state_.decode_batch(bucket), {}, bucket, nullptr});
}

void CudaExecutor::enqueue(const StepPlan& plan) {
  TROUPE_CHECK(pending_.size() < kMaxEnqueued) << pending_.size() << " steps are enqueued";
  Pending pending;
  pending.plan = plan;
  pending.index = n_enqueued_;
  for (const int32_t row : plan.closed) close(row);
  try {
    for (const OpenRow& row : plan.opened) open(row);
    const StepInput input = lay_out(plan, pending);
    const auto graph = input.sampled == nullptr ? graphs_.find(input.n_tokens) : graphs_.end();
    if (graph != graphs_.end())
      graph->second.launch(stream_.get());
    else
      launch_step(input);
  } catch (const DeviceError& e) {
    throw DeviceError("step " + std::to_string(plan.step) + ": " + e.what());
  }
  ++n_enqueued_;
  pending_.push_back(std::move(pending));
}

bool CudaExecutor::ended(uint64_t index) const {
  StepOutcome& outcome = state_.device().outcomes[index % StepState::kRing];
  return std::atomic_ref<uint64_t>(outcome.sequence).load(std::memory_order_acquire) == index + 1;
}

void CudaExecutor::check_device() const {
  const cudaError_t state = cudaStreamQuery(stream_.get());
  if (state == cudaErrorNotReady) return;
  const uint64_t step = pending_.front().plan.step;
  if (state != cudaSuccess)
    throw DeviceError("step " + std::to_string(step) +
                      " failed on the device: " + cudaGetErrorString(state));
  if (!ended(pending_.front().index))
    throw DeviceError("step " + std::to_string(step) + " ended without a result");
}

bool CudaExecutor::ready() const {
  if (pending_.empty()) return false;
  if (ended(pending_.front().index)) return true;
  // A failed device never writes a result: ask it now and then; collect() tells.
  const Clock::time_point now = Clock::now();
  if (now < next_check_) return false;
  next_check_ = now + std::chrono::milliseconds(1);
  const cudaError_t state = cudaStreamQuery(stream_.get());
  return state != cudaSuccess && state != cudaErrorNotReady;
}

StepResult CudaExecutor::collect() {
  TROUPE_CHECK(!pending_.empty()) << "nothing is enqueued";
  const Clock::time_point start = Clock::now();
  Clock::time_point next_check = start;
  for (uint32_t spins = 0; !ended(pending_.front().index); ++spins) {
    if (spins % 64 != 0) continue;
    const Clock::time_point now = Clock::now();
    if (now < next_check) continue;
    check_device();
    if (now - start > kLongestStep)
      throw DeviceError("step " + std::to_string(pending_.front().plan.step) + " does not end");
    next_check = now + std::chrono::milliseconds(1);
  }
  const Pending pending = std::move(pending_.front());
  pending_.pop_front();

  const StepState::Device& d = state_.device();
  const size_t entry = pending.index % StepState::kRing;
  StepResult result;
  result.epoch = pending.plan.epoch;
  result.step = pending.plan.step;
  result.sampled.reserve(pending.samples.size());
  size_t next = 0;
  for (const RowWork& work : pending.plan.work) {
    if (!work.sample) continue;
    const size_t at =
        entry * static_cast<size_t>(d.max_rows) + static_cast<size_t>(pending.samples[next++]);
    const SampleOutcome& outcome = d.sample_outcomes[at];
    SampledToken token;
    token.row = work.row;
    token.token = outcome.token + static_cast<int32_t>(shard_.vocab.begin);
    token.failed = outcome.failed != 0;
    if (token.failed) token.token = 0;
    token.logprob = outcome.logprob;
    const TokenLogprob* top = d.top + at * kMaxTopLogprobs;
    token.top.assign(top, top + outcome.n_top);
    result.sampled.push_back(std::move(token));
  }
  result.digest = step_digest(pending.plan, result.sampled);
  const StepOutcome& outcome = d.outcomes[entry];
  result.timings.compute_us = microseconds(outcome.begin_ns, outcome.end_ns);
  if (last_end_ns_ != 0) result.timings.idle_us = microseconds(last_end_ns_, outcome.begin_ns);
  last_end_ns_ = outcome.end_ns;
  return result;
}

}  // namespace

Result<std::unique_ptr<Executor>> make_executor(const Checkpoint& checkpoint,
                                                const ExecutorOptions& options,
                                                Communicator& communicator,
                                                const Variant& variant) {
  const ModelConfig& config = checkpoint.config();
  if (communicator.size() > 1)
    return fail(ErrorCode::kInvalidArgument,
                "--tp " + std::to_string(communicator.size()) +
                    " needs collectives between GPUs, which this version lacks; use --tp 1 and "
                    "more replicas (--dp)",
                "tp");
  if (options.n_slots < 0 || options.max_rows < 1 || options.max_step_tokens < 1 ||
      options.max_context < 0)
    return fail(ErrorCode::kInvalidArgument,
                "rows and step tokens must be 1 or more, KV tokens and context not negative");
  if (variant.share_of < 1 || variant.share_of > config.n_heads)
    return fail(ErrorCode::kInvalidArgument, "a share must be of 1 to as many ranks as heads");
  const Result<DeviceInfo> device = find_device();
  if (!device) return device.error();
  const Shard shard = make_shard(config, kFfnBlock, communicator.rank(), variant.share_of);
  if (const Status fits = check_model(config, shard, variant.share_of); !fits) return fits.error();

  const WeightFormat format = options.fp8_weights ? WeightFormat::kFp8 : WeightFormat::kBf16;
  const AttentionShape shape = Llama::attention_shape(config, shard);
  const Llama::Limits limits = CudaExecutor::limits(config, options, variant);
  DeviceNeed need;
  need.weights = Weights::bytes(config, shard, format);
  need.workspace =
      Llama::activation_bytes(config, shard, limits) +
      StepState::device_bytes(CudaExecutor::state_limits(config, shard, options, variant)) +
      Sampler::device_bytes(options.max_rows) + Llama::kLinearWorkspace;
  need.kv_per_slot = KvPool::bytes_per_slot(config.n_layers, shape,
                                            options.fp8_kv ? KvFormat::kFp8 : KvFormat::kBf16);
  const int32_t least_slots = options.n_slots > 0 ? options.n_slots : limits.max_tokens;
  if (const Status fits = check_fit(*device, need, least_slots); !fits) return fits.error();

  auto weights = options.dummy_weights
                     ? Weights::random(config, shard, format)
                     : Weights::load(checkpoint, shard, communicator.rank() == 0, format);
  if (!weights) return weights.error();
  auto executor =
      std::make_unique<CudaExecutor>(config, shard, options, variant, std::move(weights).value());
  if (variant.tune) executor->tune(options.tune_file);  // needs room that the pool will take
  if (const Status made = executor->make_pool(options.n_slots); !made) return made.error();
  if (variant.random_pool) executor->randomise_pool();
  if (variant.graphs) executor->capture();
  return std::unique_ptr<Executor>(std::move(executor));
}

Result<std::unique_ptr<Executor>> make_executor(const Checkpoint& checkpoint,
                                                const ExecutorOptions& options,
                                                Communicator& communicator) {
  return make_executor(checkpoint, options, communicator, Variant{});
}

}  // namespace troupe::cuda
