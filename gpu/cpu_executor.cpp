#include "gpu/cpu_executor.h"

#include "gpu/base/check.h"
#include "gpu/communicator.h"
#include "gpu/device/host_memory.h"
#include "gpu/device/stream.h"
#include "gpu/kv_pool.h"
#include "gpu/memory_plan.h"
#include "gpu/model/llama.h"
#include "gpu/sampler.h"
#include "gpu/step_digest.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <limits>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace troupe {
namespace {

using Clock = std::chrono::steady_clock;

/// A slice of the down matrix may begin at any multiple of this, whatever its block format.
constexpr int64_t kFfnBlock = 32;

uint32_t microseconds(Clock::duration d) {
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(d).count();
  return static_cast<uint32_t>(std::clamp<int64_t>(us, 0, std::numeric_limits<uint32_t>::max()));
}

template <class T>
std::vector<T> gather(const T& mine, Communicator& communicator, Stream& stream) {
  std::vector<T> all(static_cast<size_t>(communicator.size()));
  communicator.all_gather(std::as_bytes(std::span(&mine, 1)),
                          std::as_writable_bytes(std::span(all)), stream);
  return all;
}

struct Row {
  bool live = false;
  int32_t last_token = -1;     // sampled last, -1 = none yet
  std::vector<int32_t> slots;  // one per position; its length is the row's length
};

/// The state of one CPU rank and the parts of a step.
struct CpuRank {
  CpuRank(const Checkpoint& checkpoint, const ExecutorOptions& o, Communicator& c)
      : options(o),
        communicator(c),
        stream(o.n_threads),
        shard(make_shard(checkpoint.config(), kFfnBlock, c.rank(), c.size())) {}

  [[nodiscard]] int64_t workspace_bytes(const ModelConfig& config) const {
    const int64_t logit_floats = int64_t{options.max_rows} * shard.vocab.size();
    return Llama::workspace_bytes(config, shard, options.max_step_tokens) +
           logit_floats * static_cast<int64_t>(sizeof(float));
  }

  Row& live_row(int32_t row) {
    TROUPE_CHECK(row >= 0 && row < options.max_rows) << row << " of " << options.max_rows;
    TROUPE_CHECK(rows[static_cast<size_t>(row)].live) << "row " << row << " is not open";
    return rows[static_cast<size_t>(row)];
  }

  void check_slots(std::span<const int32_t> list) const {
    for (const int32_t slot : list)
      TROUPE_CHECK(slot >= 0 && slot < options.n_slots) << slot << " of " << options.n_slots;
  }

  void check_tokens(std::span<const int32_t> list) const {
    for (const int32_t token : list)
      TROUPE_CHECK(token >= 0 && token < model->config().vocab)
          << token << " of " << model->config().vocab;
  }

  void close(int32_t row);
  void open(const OpenRow& opened);
  void begin_work(const StepPlan& plan);
  void run_chunk(int32_t begin, int32_t n);
  void sample(std::vector<SampledToken>& out);

  ExecutorOptions options;
  Communicator& communicator;
  Stream stream;
  Shard shard;
  std::unique_ptr<Llama> model;
  std::optional<KvPool> kv;
  std::optional<Sampler> sampler;
  std::vector<Row> rows;
  std::vector<float> logits;  // [max_rows, vocab_local]
  std::optional<Clock::time_point> last_end;

  /// Where a work item's tokens lie in the step.
  struct Item {
    int32_t row = 0;
    int32_t token_begin = 0;
    int32_t n_tokens = 0;
    int32_t first_position = 0;
    bool sample = false;
  };
  // The step at hand; members so that their memory is reused.
  std::vector<Item> items;
  std::vector<int32_t> tokens;
  std::vector<int32_t> positions;
  std::vector<int32_t> slots;
  std::vector<Sampler::Request> requests;
  std::vector<AttentionRow> attention_rows;
  std::vector<int32_t> sampled;
  size_t n_logits = 0;  // rows of `logits` filled so far
};

void CpuRank::close(int32_t row) {
  Row& r = live_row(row);
  r.live = false;
  r.last_token = -1;
  r.slots.clear();
  sampler->close(row);
}

void CpuRank::open(const OpenRow& opened) {
  const int32_t row = opened.row;
  TROUPE_CHECK(row >= 0 && row < options.max_rows) << row << " of " << options.max_rows;
  Row& r = rows[static_cast<size_t>(row)];
  TROUPE_CHECK(!r.live) << "row " << row << " is open already";
  TROUPE_CHECK(opened.prefix_slots.size() == opened.prefix_tokens.size())
      << opened.prefix_slots.size() << " slots, " << opened.prefix_tokens.size() << " tokens";
  check_slots(opened.prefix_slots);
  check_tokens(opened.prefix_tokens);
  r.live = true;
  r.slots = opened.prefix_slots;
  sampler->open(row, opened.sampling, opened.n_prompt);
  sampler->observe(row, 0, opened.prefix_tokens);
}

/// Checks the work list, appends its slots to the rows and lays out the step's token arrays.
void CpuRank::begin_work(const StepPlan& plan) {
  items.clear();
  tokens.clear();
  positions.clear();
  requests.clear();
  slots.assign(plan.slots.begin(), plan.slots.end());
  check_slots(plan.slots);
  check_tokens(plan.tokens);
  size_t given = 0;
  for (const RowWork& work : plan.work) {
    Row& row = live_row(work.row);
    const auto n = static_cast<size_t>(work.n_tokens);
    TROUPE_CHECK(work.n_tokens >= 1) << "row " << work.row << ": " << work.n_tokens;
    TROUPE_CHECK(tokens.size() + n <= plan.slots.size())
        << plan.slots.size() << " slots are too few at row " << work.row;
    const Item item = {work.row, static_cast<int32_t>(tokens.size()), work.n_tokens,
                       static_cast<int32_t>(row.slots.size()), work.sample};
    if (work.from_last_sample) {
      TROUPE_CHECK(work.n_tokens == 1 && row.last_token >= 0)
          << "row " << work.row << ": " << work.n_tokens << " tokens, last " << row.last_token;
      tokens.push_back(row.last_token);
    } else {
      TROUPE_CHECK(given + n <= plan.tokens.size())
          << plan.tokens.size() << " tokens are too few at row " << work.row;
      const auto from = plan.tokens.begin() + static_cast<std::ptrdiff_t>(given);
      tokens.insert(tokens.end(), from, from + work.n_tokens);
      given += n;
    }
    const auto from = plan.slots.begin() + item.token_begin;
    row.slots.insert(row.slots.end(), from, from + work.n_tokens);
    for (int32_t i = 0; i < work.n_tokens; ++i) positions.push_back(item.first_position + i);
    sampler->observe(work.row, item.first_position,
                     std::span(tokens).subspan(static_cast<size_t>(item.token_begin), n));
    if (work.sample) requests.push_back({work.row, static_cast<int32_t>(row.slots.size())});
    items.push_back(item);
  }
  TROUPE_CHECK(tokens.size() == plan.slots.size() && given == plan.tokens.size())
      << tokens.size() << " tokens, " << plan.slots.size() << " slots; given " << given << " of "
      << plan.tokens.size();
  TROUPE_CHECK(requests.size() <= static_cast<size_t>(options.max_rows)) << requests.size();
}

/// Tokens [begin, begin + n) of the step through the model. A row cut by the border goes on in the
/// next chunk.
void CpuRank::run_chunk(int32_t begin, int32_t n) {
  const int32_t end = begin + n;
  attention_rows.clear();
  sampled.clear();
  for (const Item& item : items) {
    const int32_t item_end = item.token_begin + item.n_tokens;
    const int32_t from = std::max(begin, item.token_begin);
    const int32_t to = std::min(end, item_end);
    if (from >= to) continue;
    attention_rows.push_back({from - begin, to - from, item.first_position + to - item.token_begin,
                              rows[static_cast<size_t>(item.row)].slots.data()});
    if (item.sample && to == item_end) sampled.push_back(to - 1 - begin);
  }
  const auto part = [&](const std::vector<int32_t>& v) {
    return std::span<const int32_t>(v).subspan(static_cast<size_t>(begin), static_cast<size_t>(n));
  };
  const LlamaInput input = {part(tokens), part(positions), part(slots), attention_rows, sampled};
  model->forward(input, *kv, communicator, stream,
                 logits.data() + n_logits * static_cast<size_t>(shard.vocab.size()));
  n_logits += sampled.size();
}

void CpuRank::sample(std::vector<SampledToken>& out) {
  out.reserve(requests.size());
  if (!requests.empty()) sampler->sample(requests, logits.data(), communicator, stream, out);
  TROUPE_CHECK(out.size() == requests.size()) << out.size() << " of " << requests.size();
  for (const SampledToken& token : out) {
    // A failed row may still be named by the plan in flight: it goes on with any valid token.
    live_row(token.row).last_token = token.failed ? 0 : token.token;
  }
}

/// Runs a step inside enqueue(): on the CPU there is nothing to overlap with.
class CpuExecutor final : public Executor {
 public:
  explicit CpuExecutor(std::unique_ptr<CpuRank> rank) : rank_(std::move(rank)) {}

  void enqueue(const StepPlan& plan) override;
  [[nodiscard]] bool ready() const override { return !done_.empty(); }
  StepResult collect() override {
    TROUPE_CHECK(!done_.empty()) << "nothing is enqueued";
    StepResult result = std::move(done_.front());
    done_.pop_front();
    return result;
  }
  void reset() override {
    for (int32_t row = 0; row < rank_->options.max_rows; ++row)
      if (rank_->rows[static_cast<size_t>(row)].live) rank_->close(row);
  }
  [[nodiscard]] int32_t n_slots() const override { return rank_->options.n_slots; }
  [[nodiscard]] Memory memory() const override {
    return {rank_->model->weight_bytes(), rank_->kv->bytes(),
            rank_->workspace_bytes(rank_->model->config())};
  }

 private:
  std::unique_ptr<CpuRank> rank_;
  std::deque<StepResult> done_;
};

void CpuExecutor::enqueue(const StepPlan& plan) {
  CpuRank& s = *rank_;
  const Clock::time_point start = Clock::now();
  StepResult result;
  result.epoch = plan.epoch;
  result.step = plan.step;
  if (s.last_end) result.timings.idle_us = microseconds(start - *s.last_end);

  for (const int32_t row : plan.closed) s.close(row);
  for (const OpenRow& row : plan.opened) s.open(row);
  s.begin_work(plan);
  s.n_logits = 0;
  const auto n = static_cast<int32_t>(s.tokens.size());
  for (int32_t begin = 0; begin < n; begin += s.options.max_step_tokens)
    s.run_chunk(begin, std::min(s.options.max_step_tokens, n - begin));
  s.sample(result.sampled);
  result.digest = step_digest(plan, result.sampled);

  s.last_end = Clock::now();
  result.timings.compute_us = microseconds(*s.last_end - start);
  done_.push_back(std::move(result));
}

}  // namespace

Result<std::unique_ptr<Executor>> make_cpu_executor(const Checkpoint& checkpoint,
                                                    const ExecutorOptions& options,
                                                    Communicator& communicator) {
  const ModelConfig& config = checkpoint.config();
  if (communicator.size() > config.n_heads)
    return fail(ErrorCode::kInvalidArgument,
                "the model has " + std::to_string(config.n_heads) +
                    " attention heads; use at most as many ranks per replica (--tp)",
                "tp");
  if (options.n_slots < 1 || options.max_rows < 1 || options.max_step_tokens < 1 ||
      options.n_threads < 1)
    return fail(ErrorCode::kInvalidArgument,
                "KV tokens, rows, step tokens and threads must be 1 or more");
  if (options.kv != DType::kF16 && options.kv != DType::kF32)
    return fail(ErrorCode::kInvalidArgument, "the KV pool can be F16 or F32", "kv");

  auto impl = std::make_unique<CpuRank>(checkpoint, options, communicator);
  const auto kv_heads = static_cast<int32_t>(impl->shard.kv_heads.size());
  MemoryNeed need;
  need.host = host_id();
  need.weights = Llama::weight_bytes(checkpoint, impl->shard, options.weights);
  need.workspace = impl->workspace_bytes(config);
  need.kv_per_slot = KvPool::bytes_per_slot(config.n_layers, kv_heads, config.head_dim, options.kv);
  need.available = available_host_memory();
  const std::vector<MemoryNeed> needs = gather(need, communicator, impl->stream);
  if (const Status fits = check_memory(needs, options.n_slots); !fits) return fits.error();

  std::optional<Error> error;
  try {
    auto model = Llama::load(checkpoint, impl->shard, communicator.rank() == 0, options.weights,
                             options.max_step_tokens, impl->stream);
    if (model) {
      impl->model = std::move(model).value();
      impl->kv.emplace(config.n_layers, options.n_slots, kv_heads, config.head_dim, options.kv);
      impl->sampler.emplace(config.vocab, static_cast<int32_t>(impl->shard.vocab.begin),
                            static_cast<int32_t>(impl->shard.vocab.size()), options.max_rows);
      impl->rows.resize(static_cast<size_t>(options.max_rows));
      impl->logits.resize(static_cast<size_t>(options.max_rows * impl->shard.vocab.size()));
    } else {
      error = model.error();
    }
  } catch (const std::bad_alloc&) {
    error = fail(ErrorCode::kOutOfMemory,
                 "rank " + std::to_string(communicator.rank()) + " may not allocate the " +
                     mebibytes(need.weights + need.workspace + need.kv_per_slot * options.n_slots) +
                     " it needs; raise its memory limit (ulimit -v) or lower --kv-tokens");
  }
  // A rank alone would wait for the others in its first step, so all fail when one does.
  const std::vector<int32_t> failed = gather(int32_t{error ? 1 : 0}, communicator, impl->stream);
  if (error) return *error;
  for (size_t r = 0; r < failed.size(); ++r)
    if (failed[r] != 0)
      return fail(ErrorCode::kInternal, "rank " + std::to_string(r) + " of the replica could not " +
                                            "load; its own message names the cause");
  return std::unique_ptr<Executor>(std::make_unique<CpuExecutor>(std::move(impl)));
}

}  // namespace troupe
