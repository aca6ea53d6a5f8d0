// Who starts next, and where.

#include "actors/router/observe.h"
#include "actors/router/router.h"
#include "gpu/base/check.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

namespace troupe {
namespace {

constexpr int32_t kReconsiderEvery = 8;  // plans, when nothing happened
constexpr int32_t kMostPassedOver = 64;  // starts of others before the longest waiting one's turn
constexpr int32_t kMostPreempted = 3;    // pauses of one request for others of a higher priority

}  // namespace

// Requests start in the queue's order. One that fits nowhere may make running ones of a lower
// priority pause, or be overtaken by smaller ones, a bounded number of times; then it holds the
// queue until it fits. So does the one that has waited longest when enough others have started,
// whatever its priority: nobody starves.
void Router::admit(Micros now) {
  if (waiting_.empty() || (!reconsider_ && ++plans_since_ < kReconsiderEvery)) return;
  reconsider_ = false;
  plans_since_ = 0;
  int32_t largest = 0;
  for (const auto& [job, replica] : replicas_) {
    largest = std::max(largest, replica->info.n_slots);
    replica->claim = replica->claimed();
    std::erase_if(replica->computing, [](const auto& item) { return item.second->backlog() <= 1; });
  }
  look_at_targets(now);
  while (!waiting_.empty()) {
    waiting_.first(kLookAhead, largest, scratch_);
    if (scratch_.empty()) return;
    Request* const oldest = waiting_.oldest();
    if (oldest->id != longest_waiting_) passed_over_ = 0;
    longest_waiting_ = oldest->id;
    if (passed_over_ >= kMostPassedOver && oldest->n_prompt + oldest->max_tokens <= largest) {
      scratch_.assign(1, oldest);
    }
    Request* const head = scratch_.front();
    if (head->overtaken >= limits_.max_overtakes) scratch_.resize(1);
    Request* next = nullptr;
    Replica* where = nullptr;
    for (Request* r : scratch_) {
      where = place(*r, now);
      if (where == nullptr) {
        if (r == head && preempt(*head, now)) return;
        continue;
      }
      next = r;
      break;
    }
    if (next == nullptr) return;
    if (hopeless(*next, now)) {
      give_up_target(*next, now);
      continue;
    }
    if (next != head) ++head->overtaken;
    if (next != oldest) ++passed_over_;
    start(*next, *where, now);
  }
}

// Pauses running requests of a lower priority so that `head` fits: of the lowest priority the
// youngest first, never a replica's oldest, nobody too often. True when room is on its way: until
// then nobody else may take it.
bool Router::preempt(const Request& head, Micros now) {
  for (const auto& [job, replica] : replicas_) {
    if (head.n_prompt + head.max_tokens > replica->info.n_slots || !steady(*replica, head))
      continue;
    std::vector<Request*> lower;
    bool pausing = false;
    for (size_t i = replica->running.size(); i-- > 1;) {
      Request* r = replica->running[i];
      pausing = pausing || r->leaving == Request::Leaving::kPause;
      if (r->priority <= head.priority || r->leaving != Request::Leaving::kNo) continue;
      if (r->preempted < kMostPreempted) lower.push_back(r);
    }
    if (lower.empty()) continue;
    if (pausing) return true;
    std::stable_sort(lower.begin(), lower.end(),
                     [](const Request* a, const Request* b) { return a->priority > b->priority; });
    Demand demand = demand_of(head);
    const auto known = std::span(head.tokens).first(head.tokens.size() - 1);
    demand.own -= replica->cache.peek(known, head.cache_salt).held;
    int64_t claim = replica->claim;
    size_t n = 0;
    bool fits = false;
    while (n < lower.size() && !fits) {
      const Request& victim = *lower[n++];
      replica->admission.clear(victim.row);
      claim -= demand_of(victim).own;
      fits = replica->admission.fits(demand, claim, replica->info.n_slots, lengths_);
    }
    if (!fits) {
      for (const Request* r : lower) replica->admission.set(r->row, demand_of(*r), lengths_);
      continue;
    }
    lower.resize(n);
    for (Request* victim : lower) {
      victim->leaving = Request::Leaving::kPause;
      ++victim->preempted;
      ++stats_.pauses;
    }
    settle_paused(*replica, now);
    return true;
  }
  return false;
}

Demand Router::demand_of(const Request& r) {
  return {r.request_class, r.produced(), std::max(r.known(), r.planned()) - r.borrowed,
          std::max(1, r.max_tokens - r.produced())};
}

// How many of its first tokens somebody on the replica is about to compute: as good as cached, for
// it will wait for them (should_wait). O(prompts in work that begin alike).
int32_t Router::coming(const Replica& replica, const Request& r) {
  int32_t longest = 0;
  const auto [begin, end] = replica.computing.equal_range(r.head);
  for (auto it = begin; it != end; ++it) {
    const Request* const other = it->second;
    if (other->backlog() <= 1 || other->leaving != Request::Leaving::kNo) continue;
    if (other->cache_salt != r.cache_salt) continue;
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
  replica.computing.emplace(r.head, &r);
  if (r.tpot_target > 0) ++replica.with_tpot;
  replica.claim = replica.claimed();
}

}  // namespace troupe
