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
      where = place(*r, now);
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

// How many of its first tokens somebody on the replica is about to compute: as good as cached, for
// it will wait for them (should_wait). O(running).
int32_t Router::coming(const Replica& replica, const Request& r) {
  int32_t longest = 0;
  for (const Request* other : replica.running) {
    if (other->backlog() <= 1 || other->leaving != Request::Leaving::kNo) continue;
    if (other->tokens.front() != r.tokens.front() || other->cache_salt != r.cache_salt) continue;
    const auto n = static_cast<std::ptrdiff_t>(std::min(other->tokens.size(), r.tokens.size()) - 1);
    const auto ours = r.tokens.begin();
    const auto same = std::mismatch(ours, ours + n, other->tokens.begin()).first - ours;
    longest = std::max(longest, static_cast<int32_t>(same));
  }
  return longest;
}

// Where a request should start now, or null. Between replicas with room: the least work that is
// left after the prefix that is cached or coming there, against the load that the forecast sees.
// When a replica that holds its prefix is full, the request waits for it as long as computing the
// prefix elsewhere would take: at worst that doubles what it costs (ski rental: Karlin et al.,
// 1988). Meanwhile others may overtake it.
Replica* Router::place(Request& r, Micros now) {
  Replica* best = nullptr;
  double best_score = 0;
  double least_score = -1;  // of those without room too
  int32_t best_shared = 0;
  int32_t least_shared = 0;
  for (const auto& [job, replica] : replicas_) {
    if (r.n_prompt + r.max_tokens > replica->info.n_slots) continue;
    const auto known = std::span(r.tokens).first(r.tokens.size() - 1);
    const PrefixCache::Length hit = replica->cache.peek(known, r.cache_salt);
    const int32_t coming_there = limits_.prefix_cache ? coming(*replica, r) : 0;
    Demand demand = demand_of(r);
    demand.own -= std::max(hit.held, coming_there);
    // A replica that runs nothing takes any request: it fits the pool, or it would have been
    // refused at the door.
    const bool fits =
        !replica->free_rows.empty() && steady(*replica, r) &&
        (replica->running.empty() ||
         replica->admission.fits(demand, replica->claim, replica->info.n_slots, lengths_));
    if (replicas_.size() == 1) return fits ? replica.get() : nullptr;
    const int32_t shared = std::max(hit.cached, coming_there);
    const double score =
        static_cast<double>(r.known() - shared) / static_cast<double>(r.known()) +
        replica->admission.peak(replica->claim) / static_cast<double>(replica->info.n_slots) +
        static_cast<double>(replica->running.size()) / static_cast<double>(replica->info.max_rows);
    if (least_score < 0 || score < least_score) {
      least_score = score;
      least_shared = shared;
    }
    if (fits && (best == nullptr || score < best_score)) {
      best = replica.get();
      best_score = score;
      best_shared = shared;
    }
  }
  if (best == nullptr || least_score >= best_score || least_shared <= best_shared) return best;
  if (r.held_back == 0) r.held_back = now;
  StepShape prefix;
  prefix.prefill = least_shared - best_shared;
  const double worth = best->step_time.knows() ? best->step_time.predict(prefix) : 0;
  return static_cast<double>(now - r.held_back) < worth ? nullptr : best;
}

// True when the replica's steps stay within every running request's TPOT target, and this one's,
// after it has joined.
bool Router::steady(const Replica& replica, const Request& r) const {
  if (!replica.step_time.knows()) return true;
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
  r.held_back = 0;
  r.slots.reserve(r.tokens.size() + static_cast<size_t>(std::clamp(r.left(), 0, 512)));
  if (limits_.prefix_cache) {
    const auto known = std::span(r.tokens).first(r.tokens.size() - 1);
    r.borrowed = std::max(replica.cache.peek(known, r.cache_salt).held, coming(replica, r));
    replica.cache.extend(known, r.cache_salt, r.slots, r.prefix);
    r.in_tree = r.planned();
  }
  replica.admission.set(r.row, demand_of(r), lengths_);
  const auto by_age = [](const Request* a, const Request* b) {
    return a->submitted != b->submitted ? a->submitted < b->submitted : a->id < b->id;
  };
  replica.running.insert(
      std::upper_bound(replica.running.begin(), replica.running.end(), &r, by_age), &r);
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
