#include "gpu/base/check.h"
#include "gpu/communicator.h"
#include "gpu/cuda/cuda_executor.h"
#include "gpu/step_digest.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <string>
#include <utility>

namespace troupe::cuda {
namespace {

using Clock = std::chrono::steady_clock;

/// A step that takes longer will never end.
constexpr std::chrono::seconds kLongestStep{120};

uint32_t microseconds(uint64_t from_ns, uint64_t to_ns) {
  const uint64_t us = to_ns > from_ns ? (to_ns - from_ns) / 1000 : 0;
  return static_cast<uint32_t>(std::min<uint64_t>(us, std::numeric_limits<uint32_t>::max()));
}

}  // namespace

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
  const uint64_t step = pending_.front().plan.step;
  if (state == cudaErrorNotReady) return communicator_.check();
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
  try {
    check_device();
  } catch (const DeviceError&) {
    return true;
  }
  return false;
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
    if (now - start > kLongestStep) {
      communicator_.abort();
      throw DeviceError("step " + std::to_string(pending_.front().plan.step) + " does not end");
    }
    next_check = now + std::chrono::milliseconds(1);
  }
  communicator_.check();  // after a failure steps end too, with anything as their result
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
    token.token = outcome.token + first_token_;
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

}  // namespace troupe::cuda
