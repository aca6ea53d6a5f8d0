#include "gpu/sim/sim_executor.h"

#include "gpu/base/check.h"
#include "gpu/communicator.h"
#include "gpu/sim/model_shapes.h"
#include "gpu/step_digest.h"

#include <algorithm>
#include <cmath>
#include <span>
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

/// Continues the hash of a prompt with those of `tokens`, the first at `position`, that are prompt.
void add_to_prompt(uint64_t& hash, std::span<const int32_t> tokens, int32_t position,
                   int32_t n_prompt) {
  for (const int32_t token : tokens) {
    if (position++ >= n_prompt) return;
    hash = mix(hash + 0x9e3779b97f4a7c15ULL + static_cast<uint64_t>(token));
  }
}

}  // namespace

int32_t simulated_token(uint64_t key, int32_t position, int32_t vocab) {
  const uint64_t hash = mix(key + 0x9e3779b97f4a7c15ULL * static_cast<uint64_t>(position + 1));
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

// The next token and, if asked for, alternatives: each half as likely as the one before.
SampledToken SimExecutor::sample(int32_t number, const Row& row) const {
  const uint64_t key = row.greedy ? row.prompt : row.seed;
  SampledToken sampled;
  sampled.row = number;
  sampled.token = simulated_token(key, row.context, options_.vocab);
  if (options_.ends != nullptr) {
    const auto& at = options_.ends->at;
    if (row.seed < at.size() && at[row.seed] == row.context) {
      sampled.token = SimulatedEnds::kEndToken;
    } else if (sampled.token == SimulatedEnds::kEndToken) {
      ++sampled.token;
    }
  }
  if (row.n_logprobs < 0) return sampled;
  constexpr float kHalf = -0.693147F;
  sampled.logprob = kHalf;
  for (int32_t i = 0; i < std::min(row.n_logprobs, options_.vocab); ++i) {
    sampled.top.push_back(
        {(sampled.token + i) % options_.vocab, kHalf * static_cast<float>(i + 1)});
  }
  return sampled;
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
    row.open = true;
    row.greedy = opened.sampling.temperature == 0;
    row.context = static_cast<int32_t>(opened.prefix_slots.size());
    row.n_prompt = opened.n_prompt;
    row.n_logprobs = opened.sampling.n_logprobs;
    row.seed = opened.sampling.seed;
    if (row.greedy) add_to_prompt(row.prompt, opened.prefix_tokens, 0, row.n_prompt);
    context_tokens_ += row.context;
  }
  StepWork work;
  Pending step;
  std::span<const int32_t> given(plan.tokens);
  step.result.sampled.reserve(plan.work.size());
  for (const RowWork& item : plan.work) {
    Row& row = row_at(item.row);
    TROUPE_CHECK(row.open) << "row " << item.row << " is not open";
    const double n = item.n_tokens;
    if (!item.from_last_sample) {
      TROUPE_CHECK(static_cast<size_t>(item.n_tokens) <= given.size())
          << item.n_tokens << " tokens of row " << item.row << ", " << given.size() << " given";
      const auto tokens = given.first(static_cast<size_t>(item.n_tokens));
      given = given.subspan(tokens.size());
      if (row.greedy) add_to_prompt(row.prompt, tokens, row.context, row.n_prompt);
    }
    work.kv_tokens += row.context;
    if (item.n_tokens > 1) work.score_pairs += n * row.context + n * (n + 1) / 2;
    work.tokens += item.n_tokens;
    row.context += item.n_tokens;
    if (!item.sample) continue;
    ++work.sampled;
    step.result.sampled.push_back(sample(item.row, row));
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
