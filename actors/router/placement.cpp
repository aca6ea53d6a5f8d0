// Who starts next, and where; and what can be promised to a request at the door.

#include "actors/router/observe.h"
#include "actors/router/router.h"
#include "gpu/base/check.h"

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <string>

namespace troupe {
namespace {

constexpr int32_t kReconsiderEvery = 8;  // plans, when nothing happened
constexpr Micros kRateWindow = 100'000;

std::string in_seconds(double micros) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g s", micros * 1e-6);
  return text;
}

}  // namespace

// Requests start in the queue's order. One that fits nowhere may be overtaken by smaller ones, a
// bounded number of times; then it holds the queue until it fits.
void Router::admit(Micros now) {
  if (waiting_.empty() || (!reconsider_ && ++plans_since_ < kReconsiderEvery)) return;
  reconsider_ = false;
  plans_since_ = 0;
  int32_t largest = 0;
  for (const auto& [job, replica] : replicas_) {
    largest = std::max(largest, replica->info.n_slots);
    replica->claim = replica->claimed();
  }
  while (!waiting_.empty()) {
    waiting_.first(kLookAhead, largest, scratch_);
    if (scratch_.empty()) return;
    Request* const head = scratch_.front();
    if (head->overtaken >= limits_.max_overtakes) scratch_.resize(1);
    Request* next = nullptr;
    Replica* where = nullptr;
    for (Request* r : scratch_) {
      where = place(*r);
      if (where == nullptr) continue;
      next = r;
      break;
    }
    if (next == nullptr) return;
    if (next != head) ++head->overtaken;
    start(*next, *where, now);
  }
}

Demand Router::demand_of(const Request& r) {
  return {r.request_class, r.produced(), std::max(r.known(), r.planned()) - r.borrowed,
          std::max(1, r.max_tokens - r.produced())};
}

// Where a request should start now, or null. Between replicas with room: the least work that is
// left after its cached prefix, against the load that the forecast sees there.
Replica* Router::place(const Request& r) {
  Replica* best = nullptr;
  double best_score = 0;
  for (const auto& [job, replica] : replicas_) {
    if (replica->free_rows.empty()) continue;
    if (r.n_prompt + r.max_tokens > replica->info.n_slots) continue;
    if (!steady(*replica, r)) continue;
    const auto known = std::span(r.tokens).first(r.tokens.size() - 1);
    const PrefixCache::Length hit = replica->cache.peek(known, r.cache_salt);
    Demand demand = demand_of(r);
    demand.own -= hit.held;
    // A replica that runs nothing takes any request: it fits the pool, or it would have been
    // refused at the door.
    const bool fits =
        replica->running.empty() ||
        replica->admission.fits(demand, replica->claim, replica->info.n_slots, lengths_);
    if (!fits) continue;
    if (replicas_.size() == 1) return replica.get();
    const double score =
        static_cast<double>(r.known() - hit.cached) / static_cast<double>(r.known()) +
        replica->admission.peak(replica->claim) / static_cast<double>(replica->info.n_slots) +
        static_cast<double>(replica->running.size()) / static_cast<double>(replica->info.max_rows);
    if (best == nullptr || score < best_score) {
      best = replica.get();
      best_score = score;
    }
  }
  return best;
}

// True when the replica's steps stay within every running request's TPOT target, and this one's,
// after it has joined.
bool Router::steady(const Replica& replica, const Request& r) const {
  if (!replica.step_time.knows()) return true;
  if (r.tpot_target == 0 && replica.with_tpot == 0) return true;
  Micros target = r.tpot_target;
  StepShape shape;
  for (const Request* other : replica.running) {
    if (other->tpot_target > 0 && (target == 0 || other->tpot_target < target)) {
      target = other->tpot_target;
    }
    ++shape.decodes;
    shape.decode_context += other->known();
  }
  if (target == 0 || replica.running.empty()) return true;
  ++shape.decodes;
  shape.decode_context += r.known();
  return replica.step_time.predict(shape) <= static_cast<double>(target);
}

void Router::start(Request& r, Replica& replica, Micros now) {
  leave_queue(r);
  if (!r.started) {
    observe(stats_.queue_s, seconds(r.submitted, now));
    r.charged = r.n_prompt + lengths_.expected(r.request_class, 0, r.max_tokens);
    waiting_.charge(r, r.charged);
    measure_queue(r.charged, now);
    lengths_.reached(r.request_class, 0);
    r.next_edge = OutputEstimator::edge(1);
    r.started = true;
  }
  r.replica = &replica;
  r.row = replica.free_rows.back();
  replica.free_rows.pop_back();
  r.own_copies = false;
  r.slots.reserve(r.tokens.size() + static_cast<size_t>(std::clamp(r.left(), 0, 512)));
  if (limits_.prefix_cache) {
    const auto known = std::span(r.tokens).first(r.tokens.size() - 1);
    r.borrowed = replica.cache.peek(known, r.cache_salt).held;
    replica.cache.extend(known, r.cache_salt, r.slots, r.prefix);
    r.in_tree = r.planned();
  }
  replica.admission.set(r.row, demand_of(r), lengths_);
  const auto by_age = [](const Request* a, const Request* b) {
    return a->submitted != b->submitted ? a->submitted < b->submitted : a->id < b->id;
  };
  replica.running.insert(
      std::upper_bound(replica.running.begin(), replica.running.end(), &r, by_age), &r);
  if (r.tpot_target > 0) ++replica.with_tpot;
  replica.claim = replica.claimed();
}

void Router::measure_queue(double tokens, Micros now) {
  drained_ += tokens;
  if (now - drained_since_ < kRateWindow) return;
  const double rate = drained_ / seconds(drained_since_, now);
  drain_rate_ = drain_rate_ == 0 ? rate : 0.7 * drain_rate_ + 0.3 * rate;
  drained_ = 0;
  drained_since_ = now;
}

// Microseconds until the first token of a request that joins the queue now, 0 when too little is
// known. Queue ahead of it at the rate at which the queue drains, then the prefill that is owed on
// the replica where that is least, in steps of the usual size.
double Router::predicted_wait(const TokenizedRequest& r) const {
  double best = -1;
  for (const auto& [job, replica] : replicas_) {
    if (!replica->step_time.knows()) return 0;
    int64_t owed =
        static_cast<int64_t>(r.prompt.size()) -
        replica->cache.peek(std::span(r.prompt).first(r.prompt.size() - 1), r.cache_salt).cached;
    StepShape shape;
    for (const Request* other : replica->running) {
      if (other->backlog() > 1) {
        owed += other->backlog();
      } else {
        ++shape.decodes;
        shape.decode_context += other->known();
      }
    }
    const int32_t budget = std::max(
        1, prefill_budget(
               *replica, shape,
               std::min(limits_.max_step_tokens, replica->info.max_step_tokens) - shape.decodes));
    const int64_t steps = (owed + budget - 1) / budget;
    shape.prefill = static_cast<int32_t>(std::min<int64_t>(owed, budget));
    shape.prefill_context = int64_t{shape.prefill} * static_cast<int64_t>(r.prompt.size()) / 2;
    const double time = static_cast<double>(steps) * replica->step_time.predict(shape);
    if (best < 0 || time < best) best = time;
  }
  if (best < 0) return 0;
  if (queued_new_ == 0) return best;
  if (drain_rate_ <= 0) return 0;
  const double ahead =
      static_cast<double>(queued_new_tokens_) +
      queued_new_ * stats_.output_len.sum /
          static_cast<double>(std::max<uint64_t>(
              1, stats_.finished_stop + stats_.finished_length + stats_.finished_cancelled));
  return best + ahead / drain_rate_ * 1e6;
}

// Refuses at the door what cannot keep its targets: work for it would be taken from those that can.
Status Router::promise(const TokenizedRequest& r, Micros now) const {
  if (r.ttft_target > 0) {
    const double wait = predicted_wait(r) + static_cast<double>(now - r.submitted);
    if (wait > static_cast<double>(r.ttft_target)) {
      return fail(ErrorCode::kDeadlineExceeded, "the predicted time to the first token is " +
                                                    in_seconds(wait) + ", over the wanted " +
                                                    in_seconds(static_cast<double>(r.ttft_target)) +
                                                    "; try again later");
    }
  }
  if (r.tpot_target > 0 && !replicas_.empty()) {
    StepShape alone;
    alone.decodes = 1;
    alone.decode_context = static_cast<int64_t>(r.prompt.size());
    double fastest = -1;
    for (const auto& [job, replica] : replicas_) {
      const double time = replica->step_time.knows() ? replica->step_time.predict(alone) : 0;
      if (fastest < 0 || time < fastest) fastest = time;
    }
    if (fastest > static_cast<double>(r.tpot_target)) {
      return fail(ErrorCode::kDeadlineExceeded, "a token takes " + in_seconds(fastest) +
                                                    " here even alone, over the wanted " +
                                                    in_seconds(static_cast<double>(r.tpot_target)));
    }
  }
  return ok_status();
}

}  // namespace troupe
