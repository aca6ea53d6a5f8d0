// The planning half of the router: admission, and what goes into the next step.

#include "actors/router/router.h"
#include "gpu/base/check.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace troupe {

Decision Router::plan(Micros now) {
  admit(now);
  Decision decision;
  for (const auto& [job, replica] : replicas_) {
    while (static_cast<int32_t>(replica->in_flight.size()) < limits_.plans_in_flight) {
      StepPlan step;
      if (!plan_step(*replica, step)) break;
      decision.plans.emplace_back(job, std::move(step));
    }
  }
  decision.updates = std::move(updates_);
  updates_.clear();
  return decision;
}

// Heads of the queue go to the replica with the most free slots that admits them. A head that fits
// nowhere holds the queue: first come, first served.
void Router::admit(Micros now) {
  while (!waiting_.empty()) {
    Request& head = *waiting_.front();
    Replica* best = nullptr;
    for (const auto& [job, replica] : replicas_) {
      if (head.n_prompt + head.max_tokens > replica->info.n_slots) continue;
      if (!admission_.admits(*replica, head)) continue;
      if (best == nullptr || replica->running.size() < best->running.size() ||
          (replica->running.size() == best->running.size() &&
           replica->slots.free() > best->slots.free())) {
        best = replica.get();
      }
    }
    if (best == nullptr) return;
    leave_queue(head);
    if (head.last_token == 0) {
      const auto at = std::lower_bound(stats_.queue_s.bounds.begin(), stats_.queue_s.bounds.end(),
                                       static_cast<double>(now - head.submitted) * 1e-6);
      ++stats_.queue_s.counts[static_cast<size_t>(at - stats_.queue_s.bounds.begin())];
      stats_.queue_s.sum += static_cast<double>(now - head.submitted) * 1e-6;
    }
    head.replica = best;
    head.row = best->free_rows.back();
    best->free_rows.pop_back();
    head.slots = best->cache.match(head.tokens);
    head.cached_tokens = head.planned();
    stats_.cached_prompt_tokens += static_cast<uint64_t>(head.cached_tokens);
    const auto by_age = [](const Request* a, const Request* b) {
      return a->submitted != b->submitted ? a->submitted < b->submitted : a->id < b->id;
    };
    best->running.insert(
        std::upper_bound(best->running.begin(), best->running.end(), &head, by_age), &head);
  }
}

// Fills one step: a token for every running sequence first, the rest of the budget with prefill,
// oldest first. False when nothing can be done now.
bool Router::plan_step(Replica& replica, StepPlan& plan) {
  int32_t budget = std::min(limits_.max_step_tokens, replica.info.max_step_tokens);
  Replica::Flight flight;
  const auto schedule = [&](Request& r, int32_t n) {
    if (!add_work(replica, r, n, plan)) return;
    flight.items.push_back({&r, plan.work.back().sample});
    budget -= n;
  };
  // make_room() only marks requests, so `running` does not change under the loops.
  for (Request* r : replica.running) {
    if (r->leaving == Request::Leaving::kNo && r->backlog() <= 1 && r->left() > 0 && budget > 0) {
      schedule(*r, 1);
    }
  }
  for (Request* r : replica.running) {
    if (r->leaving == Request::Leaving::kNo && r->backlog() > 1 && budget > 0) {
      schedule(*r, std::min({r->backlog(), budget, std::max(1, replica.slots.free())}));
    }
  }
  // Marked requests that no plan names are settled by plan()'s caller through the next event; here
  // they can go at once.
  std::vector<Request*> idle;
  for (Request* r : replica.running) {
    if (r->leaving == Request::Leaving::kPause && r->plans_in_flight == 0) idle.push_back(r);
  }
  for (Request* r : idle) settle(*r, r->queued_at);
  if (plan.work.empty()) return false;

  plan.epoch = replica.epoch;
  plan.step = replica.next_step++;
  plan.closed = std::move(replica.rows_to_close);
  replica.rows_to_close.clear();
  flight.step = plan.step;
  const auto n_tokens = static_cast<double>(plan.slots.size());
  const auto at = std::lower_bound(stats_.step_tokens.bounds.begin(),
                                   stats_.step_tokens.bounds.end(), n_tokens);
  ++stats_.step_tokens.counts[static_cast<size_t>(at - stats_.step_tokens.bounds.begin())];
  stats_.step_tokens.sum += n_tokens;
  replica.in_flight.push_back(std::move(flight));
  return true;
}

// Adds the next `n_tokens` of a request to the step. False when there are no slots for them: then a
// younger request has been marked for a pause.
bool Router::add_work(Replica& replica, Request& r, int32_t n_tokens, StepPlan& plan) {
  if (replica.slots.free() < n_tokens) {
    make_room(replica);
    return false;
  }
  if (!r.opened) {
    OpenRow open;
    open.row = r.row;
    open.n_prompt = r.n_prompt;
    open.sampling = r.sampling;
    open.prefix_slots = r.slots;
    open.prefix_tokens.assign(r.tokens.begin(), r.tokens.begin() + r.planned());
    plan.opened.push_back(std::move(open));
    r.opened = true;
  }
  RowWork work;
  work.row = r.row;
  work.n_tokens = n_tokens;
  work.from_last_sample = r.backlog() <= 0;
  work.sample = r.planned() + n_tokens >= r.known();
  if (!work.from_last_sample) {
    const auto from = r.tokens.begin() + r.planned();
    plan.tokens.insert(plan.tokens.end(), from, from + n_tokens);
  }
  replica.slots.take(n_tokens, r.slots);
  plan.slots.insert(plan.slots.end(), r.slots.end() - n_tokens, r.slots.end());
  plan.work.push_back(work);
  ++r.plans_in_flight;
  if (work.sample) ++r.samples_in_flight;
  return true;
}

// The pool is exhausted: the youngest running request is paused, unless slots are on their way back
// already. The oldest is never paused.
void Router::make_room(Replica& replica) {
  for (const Request* r : replica.running) {
    if (r->leaving != Request::Leaving::kNo) return;
  }
  if (replica.running.size() < 2) return;
  Request& youngest = *replica.running.back();
  youngest.leaving = Request::Leaving::kPause;
  ++stats_.pauses;
}

}  // namespace troupe
