// The router's other half of a step: what its result changes.

#include "actors/router/observe.h"
#include "actors/router/planted_bug.h"
#include "actors/router/router.h"
#include "gpu/base/check.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

namespace troupe {
namespace {

constexpr size_t kMostUnreported = 64;  // steps that one rank may lag behind another

}  // namespace

Status Router::apply(uint64_t job, int32_t rank, const StepResult& result, Micros now) {
  const auto it = replicas_.find(job);
  if (it == replicas_.end() || (it->second->epoch != result.epoch && !TROUPE_BUG(5))) {
    ++stats_.stale_messages;
    return ok_status();
  }
  Replica& replica = *it->second;
  bool stale = false;
  if (const Status ok = check_report(replica, rank, result, stale); !ok || stale) return ok;
  if (rank != 0) return ok_status();

  const Replica::Flight flight = std::move(replica.in_flight.front());
  replica.in_flight.pop_front();
  replica.answered_at = now;
  if (result.timings.compute_us > 0) {
    replica.step_time.observe(flight.shape, result.timings.compute_us);
  }
  ++stats_.steps;
  stats_.device_busy_us += result.timings.compute_us;
  stats_.device_idle_us += result.timings.idle_us;

  updates_.reserve(std::max(usual_updates_, updates_.size() + flight.items.size()));
  size_t next = 0;
  for (const Replica::Item& item : flight.items) {
    Request& r = *item.request;
    if (!item.sample) continue;
    --r.samples_in_flight;
    if (next >= result.sampled.size() || result.sampled[next].row != r.row) {
      return fail(ErrorCode::kInternal, "a step's samples are not those of its plan");
    }
    const SampledToken& sampled =
        result.sampled[TROUPE_BUG(6) ? result.sampled.size() - 1 - next : next];
    ++next;
    if (!r.ended) take_token(r, sampled, now);
  }
  for (const Replica::Item& item : flight.items) {
    --item.request->plans_in_flight;
    if (item.request->leaving != Request::Leaving::kNo) settle(*item.request, now);
  }
  return ok_status();
}

// Every rank reports every step once, in order. Anything else than the next one is either old news
// or means that a report was lost, and then the replica cannot be trusted.
Status Router::check_report(Replica& replica, int32_t rank, const StepResult& result, bool& stale) {
  stale = true;
  if (rank < 0 || rank >= replica.info.n_ranks ||
      result.step <= replica.reported[static_cast<size_t>(rank)]) {
    ++stats_.stale_messages;
    return ok_status();
  }
  uint64_t& last = replica.reported[static_cast<size_t>(rank)];
  if (result.step != last + 1 || result.step >= replica.next_step) {
    return fail(ErrorCode::kInternal, "rank " + std::to_string(rank) + " reports step " +
                                          std::to_string(result.step) + " after step " +
                                          std::to_string(last) + ": a report is missing");
  }
  last = result.step;
  if (replica.info.n_ranks > 1) {
    Replica::Digest& digest = replica.digests[result.step];
    if (digest.seen == 0) digest.value = result.digest;
    if (digest.value != result.digest && !TROUPE_BUG(10)) {
      return fail(ErrorCode::kInternal, "rank " + std::to_string(rank) + " disagrees about step " +
                                            std::to_string(result.step) +
                                            ": the replica's ranks have diverged");
    }
    if (++digest.seen == replica.info.n_ranks) replica.digests.erase(result.step);
    if (replica.digests.size() > kMostUnreported) {
      return fail(ErrorCode::kInternal, "a rank has stopped reporting its steps");
    }
  }
  stale = false;
  return ok_status();
}

// A running request's next token is known.
void Router::take_token(Request& r, const SampledToken& sampled, Micros now) {
  if (sampled.failed) {
    r.poisoned = true;
    return end(r, FinishReason::kError,
               fail(ErrorCode::kInternal, "the model produced values that are not numbers"), now);
  }
  if (r.last_token == 0) {
    observe(stats_.ttft_s, seconds(r.submitted, now));
  } else {
    observe(stats_.inter_token_s, seconds(r.last_token, now));
  }
  r.last_token = now;
  const bool stop =
      std::find(r.stop_tokens.begin(), r.stop_tokens.end(), sampled.token) != r.stop_tokens.end();
  if (stop) return end(r, FinishReason::kStop, {}, now);
  r.tokens.push_back(sampled.token);
  ++stats_.output_tokens;
  if (r.produced() >= r.next_edge) {
    const int32_t bin = OutputEstimator::bin(r.produced());
    lengths_.reached(r.request_class, bin);
    r.next_edge = OutputEstimator::edge(bin + 1);
  }
  RequestUpdate update;
  update.kind = RequestUpdate::Kind::kTokens;
  update.cached_tokens = r.cached_tokens;
  update.tokens.push_back(sampled);
  announce(r, std::move(update));
  if (r.produced() >= r.max_tokens) end(r, FinishReason::kLength, {}, now);
}

void Router::announce(Request& r, RequestUpdate&& update) {
  if (r.update < updates_.size() && updates_[r.update].id == r.id) updates_[r.update].more = true;
  r.update = updates_.size();
  update.id = r.id;
  updates_.push_back(std::move(update));
}

void Router::announce_end(Request& r, FinishReason reason, Error error, Micros now) {
  r.ended = true;
  if (reason == FinishReason::kStop) lengths_.ended(r.request_class, r.produced());
  if (r.charged > 0) waiting_.settle(r, r.n_prompt + r.produced() - r.charged);
  if (r.replica != nullptr) r.replica->admission.ended();
  switch (reason) {
    case FinishReason::kStop: ++stats_.finished_stop; break;
    case FinishReason::kLength: ++stats_.finished_length; break;
    case FinishReason::kCancelled: ++stats_.finished_cancelled; break;
    case FinishReason::kError: ++stats_.finished_error; break;
  }
  observe(stats_.e2e_s, seconds(r.submitted, now));
  observe(stats_.output_len, static_cast<double>(r.produced()));
  RequestUpdate update;
  update.kind = RequestUpdate::Kind::kFinished;
  update.reason = reason;
  update.error = std::move(error);
  announce(r, std::move(update));
}

// Announces the end; the request itself goes when no plan in flight names it.
void Router::end(Request& r, FinishReason reason, Error error, Micros now) {
  announce_end(r, reason, std::move(error), now);
  if (r.replica == nullptr) {
    leave_queue(r);
    forget(r);
    return;
  }
  r.leaving = Request::Leaving::kEnd;
  if (r.plans_in_flight == 0) settle(r, now);
}

}  // namespace troupe
