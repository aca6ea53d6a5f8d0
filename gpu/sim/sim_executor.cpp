#include "gpu/sim/sim_executor.h"

#include "gpu/base/check.h"
#include "gpu/communicator.h"
#include "gpu/sim/model_shapes.h"
#include "gpu/step_digest.h"

#include <algorithm>
#include <cmath>
#include <thread>
#include <utility>

namespace troupe {
namespace {

constexpr std::chrono::microseconds kNap{200};

// splitmix64's finaliser (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

int32_t simulated_token(uint64_t seed, int32_t position, int32_t vocab) {
  const uint64_t hash = mix(seed + 0x9e3779b97f4a7c15ULL * static_cast<uint64_t>(position + 1));
  return static_cast<int32_t>((hash >> 32) * static_cast<uint64_t>(vocab) >> 32);
}

SimExecutor::SimExecutor(CostModel model, const SimExecutorOptions& options)
    : model_(std::move(model)), options_(options), rows_(static_cast<size_t>(options.max_rows)) {
  TROUPE_CHECK(options.n_slots > 0 && options.max_rows > 0 && options.vocab > 0)
      << options.n_slots << " slots, " << options.max_rows << " rows, vocabulary " << options.vocab;
}

SimExecutor::Row& SimExecutor::row_at(int32_t row) {
  TROUPE_CHECK(row >= 0 && row < options_.max_rows) << "row " << row << " of " << options_.max_rows;
  return rows_[static_cast<size_t>(row)];
}

int32_t SimExecutor::token_of(const Row& row) const {
  if (options_.ends != nullptr) {
    const auto& at = options_.ends->at;
    if (row.seed < at.size() && at[row.seed] == row.context) return SimulatedEnds::kEndToken;
  }
  const int32_t token = simulated_token(row.seed, row.context, options_.vocab);
  if (options_.ends != nullptr && token == SimulatedEnds::kEndToken) return token + 1;
  return token;
}

void SimExecutor::enqueue(const StepPlan& plan) {
  for (const int32_t closed : plan.closed) {
    Row& row = row_at(closed);
    TROUPE_CHECK(row.open) << "row " << closed << " closed twice";
    context_tokens_ -= row.context;
    row = {};
  }
  for (const OpenRow& opened : plan.opened) {
    Row& row = row_at(opened.row);
    TROUPE_CHECK(!row.open) << "row " << opened.row << " opened twice";
    row = {true, static_cast<int32_t>(opened.prefix_slots.size()), opened.sampling.seed};
    context_tokens_ += row.context;
  }
  StepWork work;
  Pending step;
  step.result.sampled.reserve(plan.work.size());
  for (const RowWork& item : plan.work) {
    Row& row = row_at(item.row);
    TROUPE_CHECK(row.open) << "row " << item.row << " is not open";
    const double n = item.n_tokens;
    work.kv_tokens += row.context;
    if (item.n_tokens > 1) work.score_pairs += n * row.context + n * (n + 1) / 2;
    work.tokens += item.n_tokens;
    row.context += item.n_tokens;
    if (!item.sample) continue;
    ++work.sampled;
    step.result.sampled.push_back({item.row, token_of(row), 0.0F, {}, false});
  }
  for (const int32_t slot : plan.slots) {
    TROUPE_CHECK(slot >= 0 && slot < options_.n_slots) << "slot " << slot;
  }
  context_tokens_ += work.tokens;

  const double micros = std::max(1.0, model_.cost(work).total());
  step.result.epoch = plan.epoch;
  step.result.step = plan.step;
  step.result.digest = step_digest(plan, step.result.sampled);
  last_step_us_ = static_cast<uint32_t>(std::llround(micros));
  step.result.timings.compute_us = last_step_us_;
  if (options_.real_time) {
    const auto now = Clock::now();
    const auto start = std::max(now, free_at_.value_or(now));
    const auto idle = start - free_at_.value_or(start);
    step.result.timings.idle_us =
        static_cast<uint32_t>(std::chrono::duration_cast<std::chrono::microseconds>(idle).count());
    step.end = start + std::chrono::microseconds(step.result.timings.compute_us);
    free_at_ = step.end;
  }
  pending_.push_back(std::move(step));
}

bool SimExecutor::ready() const {
  if (pending_.empty()) return false;
  if (!options_.real_time) return true;
  const auto left = pending_.front().end - Clock::now();
  if (left <= Clock::duration::zero()) return true;
  std::this_thread::sleep_for(std::min<Clock::duration>(left, kNap));
  return Clock::now() >= pending_.front().end;
}

StepResult SimExecutor::collect() {
  TROUPE_CHECK(!pending_.empty()) << "nothing was enqueued";
  if (options_.real_time) std::this_thread::sleep_until(pending_.front().end);
  StepResult result = std::move(pending_.front().result);
  pending_.pop_front();
  return result;
}

void SimExecutor::reset() {
  TROUPE_CHECK(pending_.empty()) << pending_.size() << " steps are uncollected";
  std::fill(rows_.begin(), rows_.end(), Row{});
  context_tokens_ = 0;
}

Executor::Memory SimExecutor::memory() const {
  Memory memory;
  memory.weights = model_.weight_bytes();
  memory.kv = model_.kv_bytes_per_token() * options_.n_slots;
  memory.workspace = static_cast<int64_t>(model_.device().reserve_bytes);
  return memory;
}

Result<std::unique_ptr<Executor>> make_sim_executor(const Checkpoint& checkpoint,
                                                    const ExecutorOptions& options,
                                                    const Communicator& communicator) {
  const auto device = builtin_coefficients(options.sim_device);
  if (!device) return device.error();
  const auto shape = options.sim_model.empty() ? Result<ModelConfig>(checkpoint.config())
                                               : find_model_shape(options.sim_model);
  if (!shape) return shape.error();
  const auto type = [](bool fp8) { return fp8 ? SimType::kFp8 : SimType::kBf16; };
  auto model = CostModel::create(*shape, *device, communicator.size(), type(options.fp8_weights),
                                 type(options.fp8_kv));
  if (!model) return model.error();
  const auto fits = model->pool_slots();
  if (!fits) return fits.error();
  SimExecutorOptions sim;
  sim.n_slots = options.n_slots > 0 ? std::min(options.n_slots, *fits) : *fits;
  sim.max_rows = options.max_rows;
  sim.vocab = checkpoint.config().vocab;
  sim.real_time = true;
  return std::unique_ptr<Executor>(std::make_unique<SimExecutor>(std::move(*model), sim));
}

}  // namespace troupe
