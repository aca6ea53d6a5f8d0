// The planning half of the router: what goes into the next step.

#include "actors/router/observe.h"
#include "actors/router/planted_bug.h"
#include "actors/router/router.h"
#include "gpu/base/check.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace troupe {
namespace {

constexpr double kPromptRow = 4;     // what a prompt may slow down its share of the streams
constexpr size_t kRefreshPart = 32;  // of the running requests get a new forecast each step

}  // namespace

Decision Router::plan(Micros now) {
  admit(now);
  Decision decision;
  for (const auto& [job, replica] : replicas_) {
    for (int32_t steps = steps_to_plan(*replica); steps > 0;) {
      StepPlan step;
      if (plan_step(*replica, step, now)) {
        decision.plans.emplace_back(job, std::move(step));
        --steps;
      } else if (settle_paused(*replica, now)) {
        admit(now);
      } else {
        break;
      }
    }
  }
  usual_updates_ = updates_.size();
  decision.updates = std::move(updates_);
  updates_.clear();
  return decision;
}

// Two plans in flight keep the ranks busy. More are worth while only as long as nothing is likely
// to change what they should do: nobody waits, computes a prompt or leaves, and slots and wanted
// tokens are there for all of them.
int32_t Router::steps_to_plan(const Replica& replica) const {
  const int32_t usual = limits_.plans_in_flight - static_cast<int32_t>(replica.in_flight.size());
  if (usual <= 0 || limits_.plan_ahead == 0 || !waiting_.empty()) return usual;
  if (replica.running.empty() || !replica.step_time.knows_decodes()) return usual;
  int32_t steps = kMaxAhead;
  StepShape shape;
  for (const Request* r : replica.running) {
    if (r->leaving != Request::Leaving::kNo || !r->opened || r->backlog() > 1) return usual;
    steps = std::min(steps, r->left());
    ++shape.decodes;
    shape.decode_context += r->planned() + 1;
  }
  steps = std::min(steps, replica.available() / shape.decodes);
  const double fit = static_cast<double>(limits_.plan_ahead) / replica.step_time.predict(shape);
  return std::max(usual, fit < steps ? static_cast<int32_t>(fit) : steps);
}

// Fills one step: a token for every running sequence first, the rest of the budget with prefill,
// oldest first. False when nothing can be done now.
bool Router::plan_step(Replica& replica, StepPlan& plan, Micros now) {
  int32_t budget = std::min(limits_.max_step_tokens, replica.info.max_step_tokens);
  Replica::Flight flight;
  const size_t n_rows = replica.running.size();
  plan.work.reserve(n_rows);
  plan.slots.reserve(n_rows);
  flight.items.reserve(n_rows);
  bool prefills = false;
  // make_room() only marks requests, so `running` does not change under the loops.
  for (Request* r : replica.running) {
    if (r->leaving != Request::Leaving::kNo) continue;
    if (r->backlog() > 1 || !r->opened) {
      prefills = true;
      continue;
    }
    if (r->left() <= 0 || budget <= 0) continue;
    if (!add_work(replica, *r, 1, plan, flight.shape)) continue;
    flight.items.push_back({r, plan.work.back().sample});
    --budget;
  }
  const size_t n_decodes = flight.items.size();
  if (prefills) {
    budget = prefill_budget(replica, flight.shape, budget);
    for (Request* r : replica.running) {
      if (r->leaving != Request::Leaving::kNo || budget <= 0) continue;
      if (r->backlog() <= 1 && r->opened) continue;
      if (!r->opened) {
        match(replica, *r);
        if (should_wait(replica, *r)) continue;
      }
      const int32_t n = std::min({r->backlog(), budget, std::max(1, replica.available())});
      if (!add_work(replica, *r, n, plan, flight.shape)) continue;
      flight.items.push_back({r, plan.work.back().sample});
      budget -= n;
    }
  }
  if (plan.work.empty()) return false;
  settle_paused(replica, now);

  // The step is complete: what it computes may be read by the steps after it.
  for (size_t i = n_decodes; i < flight.items.size() && limits_.prefix_cache; ++i) {
    Request& r = *flight.items[i].request;
    if (r.own_copies) continue;
    r.in_tree = replica.cache.insert(std::span(r.tokens).first(r.slots.size()), r.slots, r.in_tree,
                                     r.cache_salt, r.prefix);
    r.own_copies = r.in_tree < r.planned();
  }
  plan.epoch = replica.epoch;
  plan.step = replica.next_step++;
  plan.closed = std::move(replica.rows_to_close);
  replica.rows_to_close.clear();
  flight.step = plan.step;
  flight.planned_at = now;
  observe(stats_.step_tokens, static_cast<double>(plan.slots.size()));
  replica.in_flight.push_back(std::move(flight));
  refresh(replica);
  return true;
}

// Marked requests that no plan names can go at once; others go when their plans have returned.
bool Router::settle_paused(Replica& replica, Micros now) {
  scratch_.clear();
  for (Request* r : replica.running) {
    if (r->leaving == Request::Leaving::kPause && r->plans_in_flight == 0) scratch_.push_back(r);
  }
  for (Request* r : scratch_) settle(*r, now);
  return !scratch_.empty();
}

// Renews the forecast of a few running requests, in turn.
void Router::refresh(Replica& replica) {
  const size_t n = replica.running.size();
  for (size_t i = 0; i < n / kRefreshPart + 1 && n > 0; ++i) {
    if (replica.next_refresh >= n) replica.next_refresh = 0;
    const Request& r = *replica.running[replica.next_refresh++];
    if (r.leaving == Request::Leaving::kNo) replica.admission.set(r.row, demand_of(r), lengths_);
  }
}

// What the cache has gained since the request was placed. Only until its row is open: then the
// ranks know its slots.
void Router::match(Replica& replica, Request& r) const {
  if (!limits_.prefix_cache) return;
  replica.cache.extend(std::span(r.tokens).first(r.tokens.size() - 1), r.cache_salt, r.slots,
                       r.prefix);
  r.in_tree = r.planned();
  r.borrowed = std::max(r.borrowed, r.in_tree);
}

// True when somebody older on the replica is about to compute the tokens that this request needs
// next: it then waits a step and finds them in the cache.
bool Router::should_wait(const Replica& replica, const Request& r) {
  for (const Request* other : replica.running) {
    if (other == &r) break;  // never for a younger one, which may have to wait for this one's slots
    if (other->leaving != Request::Leaving::kNo || !other->opened || other->own_copies) continue;
    if (other->prefix != r.prefix || other->cache_salt != r.cache_salt) continue;
    if (other->in_tree != r.planned() || other->in_tree >= other->known() - 1) continue;
    const auto theirs = std::span(other->tokens).subspan(static_cast<size_t>(other->in_tree));
    const auto ours = std::span(r.tokens).subspan(static_cast<size_t>(r.planned()));
    const size_t n = std::min({theirs.size(), ours.size(), kWorthWaiting});
    if (n < kWorthWaiting) continue;
    if (std::equal(ours.begin(), ours.begin() + static_cast<std::ptrdiff_t>(n), theirs.begin())) {
      return true;
    }
  }
  return false;
}

// Tokens of prefill that this step may have besides its decodes.
int32_t Router::prefill_budget(const Replica& replica, const StepShape& decodes,
                               int32_t budget) const {
  if (decodes.decodes == 0 || !replica.step_time.knows()) return budget;
  double target = 0;
  if (limits_.decode_slowdown > 0) {
    // A crowd of prompts is not held up for the streams: rows that wait for their first token leave
    // the device with small steps.
    const auto rows =
        static_cast<double>(std::count_if(replica.running.begin(), replica.running.end(),
                                          [](const Request* r) { return r->backlog() > 1; }));
    const double share = 1 + kPromptRow * rows / decodes.decodes;
    target = std::max(limits_.decode_slowdown, share) * replica.step_time.predict(decodes);
  }
  for (const Request* r : replica.running) {
    if (r->tpot_target == 0 || r->backlog() > 1) continue;
    const auto wanted = static_cast<double>(r->tpot_target);
    if (target == 0 || wanted < target) target = wanted;
  }
  if (target == 0) return budget;
  int32_t context = 0;
  for (const Request* r : replica.running) {
    if (r->backlog() > 1) {
      context = r->planned();
      break;
    }
  }
  const int32_t chunk = replica.step_time.chunk_within(target, decodes, context, budget);
  return std::min(budget, std::max(chunk, limits_.min_chunk));
}

void Router::open(Request& r, StepPlan& plan) {
  OpenRow row;
  row.row = r.row;
  row.n_prompt = r.n_prompt;
  row.sampling = r.sampling;
  row.prefix_slots = r.slots;
  row.prefix_tokens.assign(r.tokens.begin(), r.tokens.begin() + r.planned());
  plan.opened.push_back(std::move(row));
  r.opened = true;
  if (r.last_token != 0 || r.cached_tokens != 0) return;
  r.cached_tokens = std::min(r.planned(), r.n_prompt);
  stats_.cached_prompt_tokens += static_cast<uint64_t>(r.cached_tokens);
}

// Adds the next `n_tokens` of a request to the step. False when there are no slots for them: then a
// younger request has been marked for a pause.
bool Router::add_work(Replica& replica, Request& r, int32_t n_tokens, StepPlan& plan,
                      StepShape& shape) {
  if (replica.available() < n_tokens) {
    make_room(replica, r);
    return false;
  }
  if (!r.opened) open(r, plan);
  const int32_t missing = n_tokens - replica.slots.free();
  if (missing > 0) replica.cache.evict(missing, replica.slots);
  RowWork work;
  work.row = r.row;
  work.n_tokens = n_tokens;
  work.from_last_sample = r.backlog() <= 0;
  work.sample = r.planned() + n_tokens >= r.known();
  if (!work.from_last_sample) {
    const auto from = r.tokens.begin() + r.planned();
    plan.tokens.insert(plan.tokens.end(), from, from + n_tokens);
  }
  if (n_tokens == 1) {
    ++shape.decodes;
    shape.decode_context += r.planned() + 1;
  } else {
    shape.prefill += n_tokens;
    shape.prefill_context += int64_t{n_tokens} * (r.planned() + n_tokens / 2);
  }
  replica.slots.take(n_tokens, r.slots);
  plan.slots.insert(plan.slots.end(), r.slots.end() - n_tokens, r.slots.end());
  plan.work.push_back(work);
  ++r.plans_in_flight;
  if (work.sample) ++r.samples_in_flight;
  return true;
}

// The pool is exhausted: one running request is paused, unless slots are on their way back already.
// Of those with the lowest priority it is the youngest without whom the others are forecast to fit;
// where one is not enough, the one that helps most. Pausing the youngest whatever it frees would
// pause three to ten in a row. The oldest of all is never paused. A prefill pauses nobody older
// than itself, it just waits.
void Router::make_room(Replica& replica, const Request& asking) {
  int32_t lowest = 0;
  for (size_t i = 0; i < replica.running.size(); ++i) {
    const Request* r = replica.running[i];
    if (r->leaving != Request::Leaving::kNo) return;
    if (i == 1 || (i > 1 && r->priority > lowest)) lowest = r->priority;
  }
  const int64_t claimed = replica.claimed();
  Request* victim = nullptr;
  double least = 0;
  for (size_t i = replica.running.size(); i-- > (TROUPE_BUG(8) ? 0U : 1U);) {
    Request* r = replica.running[i];
    if (r->priority < lowest) continue;
    if (r == &asking && asking.backlog() > 1) break;
    const double peak = replica.admission.peak_without(r->row, claimed);
    if (victim == nullptr || peak < least) {
      victim = r;
      least = peak;
    }
    if (peak <= static_cast<double>(replica.info.n_slots)) break;
  }
  if (victim == nullptr) return;
  TROUPE_CHECK(victim != replica.running.front()) << "request " << victim->id << " is the oldest";
  victim->leaving = Request::Leaving::kPause;
  replica.admission.paused();
  ++stats_.pauses;
}

}  // namespace troupe
