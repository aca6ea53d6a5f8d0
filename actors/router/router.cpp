#include "actors/router/router.h"

#include "gpu/base/check.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <limits>
#include <string>

namespace troupe {
namespace {

Histogram make_histogram(std::vector<double> bounds) {
  Histogram h;
  h.counts.assign(bounds.size() + 1, 0);
  h.bounds = std::move(bounds);
  return h;
}

void observe(Histogram& h, double value) {
  const auto it = std::lower_bound(h.bounds.begin(), h.bounds.end(), value);
  ++h.counts[static_cast<size_t>(std::distance(h.bounds.begin(), it))];
  h.sum += value;
}

double seconds(Micros from, Micros to) { return static_cast<double>(to - from) * 1e-6; }

}  // namespace

Router::Router(const RouterLimits& limits) : limits_(limits) {
  const std::vector<double> latency = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                       0.5,   1,      2.5,   5,    10,    30,   60,  120};
  const std::vector<double> length = {1,   2,   4,    8,    16,   32,   64,    128,
                                      256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
  stats_.ttft_s = stats_.inter_token_s = stats_.e2e_s = stats_.queue_s = make_histogram(latency);
  stats_.prompt_len = stats_.output_len = stats_.step_tokens = make_histogram(length);
}

Router::~Router() = default;

Request* Router::find(RequestId id) {
  const auto it = requests_.find(id);
  return it == requests_.end() ? nullptr : it->second.get();
}

void Router::submit(TokenizedRequest&& in, Micros now) {
  const auto refuse = [&](ErrorCode code, std::string message, std::string param = {}) {
    ++stats_.requests_rejected;
    RequestUpdate update;
    update.id = in.id;
    update.kind = RequestUpdate::Kind::kFinished;
    update.reason = FinishReason::kError;
    update.error = fail(code, std::move(message), std::move(param));
    updates_.push_back(std::move(update));
  };
  TROUPE_CHECK(find(in.id) == nullptr) << "request " << in.id << " submitted twice";
  const auto n_prompt = static_cast<int64_t>(in.prompt.size());
  int64_t room = limits_.max_context;
  int64_t pool = replicas_.empty() ? room : 0;
  for (const auto& [job, replica] : replicas_) {
    pool = std::max<int64_t>(pool, replica->info.n_slots);
  }
  room = std::min(room, pool);
  if (draining_) return refuse(ErrorCode::kUnavailable, "the server is shutting down");
  if (n_prompt == 0) return refuse(ErrorCode::kInvalidArgument, "the prompt is empty", "prompt");
  const int64_t max_tokens = in.max_tokens < 0 ? room - n_prompt : in.max_tokens;
  if (max_tokens < 1 || n_prompt + max_tokens > room) {
    return refuse(ErrorCode::kContextLengthExceeded,
                  "the prompt has " + std::to_string(n_prompt) + " tokens and max_tokens is " +
                      std::to_string(std::max<int64_t>(max_tokens, 1)) + ", together over the " +
                      std::to_string(room) + " that fit; shorten the prompt or lower max_tokens",
                  "prompt");
  }
  if (queued_new_ >= limits_.max_queue ||
      (limits_.max_queue_tokens > 0 && queued_new_ > 0 &&
       queued_new_tokens_ + n_prompt > limits_.max_queue_tokens)) {
    return refuse(ErrorCode::kQueueFull, "too many requests are waiting; try again later");
  }

  auto owned = std::make_unique<Request>();
  Request& r = *owned;
  r.id = in.id;
  r.n_prompt = static_cast<int32_t>(n_prompt);
  r.max_tokens = static_cast<int32_t>(max_tokens);
  r.tokens = std::move(in.prompt);
  r.tokens.reserve(r.tokens.size() + static_cast<size_t>(std::min<int64_t>(max_tokens, 4096)));
  r.sampling = std::move(in.sampling);
  r.stop_tokens = std::move(in.stop_tokens);
  r.submitted = in.submitted;
  r.deadline = in.deadline;
  requests_.emplace(r.id, std::move(owned));

  ++stats_.requests_accepted;
  stats_.prompt_tokens += static_cast<uint64_t>(n_prompt);
  observe(stats_.prompt_len, static_cast<double>(n_prompt));
  RequestUpdate accepted;
  accepted.id = r.id;
  accepted.kind = RequestUpdate::Kind::kAccepted;
  accepted.prompt_tokens = r.n_prompt;
  updates_.push_back(std::move(accepted));
  wait(r, now);
}

void Router::cancel(RequestId id, Micros now) {
  if (Request* r = find(id); r != nullptr && !r->ended) {
    end(*r, FinishReason::kCancelled, {}, now);
  }
}

void Router::finish(RequestId id, Micros now) {
  Request* r = find(id);
  if (r == nullptr || r->ended) return;
  const size_t before = updates_.size();
  end(*r, FinishReason::kStop, {}, now);
  updates_.resize(before);  // the detokenizer knows already
}

uint64_t Router::replica_ready(const ReplicaInfo& info, Micros now) {
  TROUPE_CHECK(!replicas_.contains(info.job)) << "job " << info.job << " is already serving";
  const auto [it, fresh] =
      replicas_.emplace(info.job, std::make_unique<Replica>(info, ++last_epoch_));
  // Requests accepted before any replica was known may be too large for what came.
  const std::deque<Request*> waiting = waiting_;
  for (Request* r : waiting) {
    if (r->n_prompt + r->max_tokens > info.n_slots && replicas_.size() == 1) {
      end(*r, FinishReason::kError,
          fail(ErrorCode::kContextLengthExceeded,
               "prompt and max_tokens are over the " + std::to_string(info.n_slots) +
                   " tokens of the KV pool",
               "prompt"),
          now);
    }
  }
  return it->second->epoch;
}

void Router::replica_lost(uint64_t job, Micros now) {
  const auto it = replicas_.find(job);
  if (it == replicas_.end()) return;
  ++stats_.replicas_lost;
  const std::unique_ptr<Replica> dead = std::move(it->second);
  replicas_.erase(it);
  for (Request* r : dead->running) {
    r->replica = nullptr;
    r->row = -1;
    r->opened = false;
    r->slots.clear();
    r->samples_in_flight = r->plans_in_flight = 0;
    const bool ended = r->ended;
    r->leaving = Request::Leaving::kNo;
    if (ended) {
      requests_.erase(r->id);
    } else {
      wait(*r, now);
    }
  }
}

void Router::tick(Micros now) {
  std::vector<Request*> late;
  for (const auto& [id, r] : requests_) {
    const bool starved = limits_.queue_timeout > 0 && r->replica == nullptr &&
                         now - r->queued_at > limits_.queue_timeout;
    if (!r->ended && ((r->deadline > 0 && now > r->deadline) || starved)) late.push_back(r.get());
  }
  for (Request* r : late) {
    const bool deadline = r->deadline > 0 && now > r->deadline;
    end(*r, FinishReason::kError,
        deadline ? fail(ErrorCode::kDeadlineExceeded, "the request's deadline has passed")
                 : fail(ErrorCode::kUnavailable, "no replica took the request in time"),
        now);
  }
}

Status Router::apply(uint64_t job, int32_t rank, const StepResult& result, Micros now) {
  const auto it = replicas_.find(job);
  if (it == replicas_.end() || it->second->epoch != result.epoch) {
    ++stats_.stale_messages;
    return ok_status();
  }
  Replica& replica = *it->second;
  Replica::Digest& digest = replica.digests[result.step];
  if (digest.seen == 0) digest.value = result.digest;
  if (digest.value != result.digest) {
    return fail(ErrorCode::kInternal, "rank " + std::to_string(rank) + " disagrees about step " +
                                          std::to_string(result.step) +
                                          ": the replica's ranks have diverged");
  }
  if (++digest.seen == replica.info.n_ranks) replica.digests.erase(result.step);
  if (rank != 0) return ok_status();

  if (replica.in_flight.empty() || replica.in_flight.front().step != result.step) {
    return fail(ErrorCode::kInternal, "step " + std::to_string(result.step) + " was not expected");
  }
  const Replica::Flight flight = std::move(replica.in_flight.front());
  replica.in_flight.pop_front();
  ++stats_.steps;
  stats_.device_busy_us += result.timings.compute_us;
  stats_.device_idle_us += result.timings.idle_us;

  size_t next = 0;
  for (const Replica::Item& item : flight.items) {
    Request& r = *item.request;
    if (!item.sample) continue;
    --r.samples_in_flight;
    if (next >= result.sampled.size() || result.sampled[next].row != r.row) {
      return fail(ErrorCode::kInternal, "a step's samples are not those of its plan");
    }
    const SampledToken& sampled = result.sampled[next++];
    if (!r.ended) take_token(r, sampled, now);
  }
  for (const Replica::Item& item : flight.items) {
    --item.request->plans_in_flight;
    if (item.request->leaving != Request::Leaving::kNo) settle(*item.request, now);
  }
  return ok_status();
}

// A running request's next token is known.
void Router::take_token(Request& r, const SampledToken& sampled, Micros now) {
  if (sampled.failed) {
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
  RequestUpdate update;
  update.id = r.id;
  update.kind = RequestUpdate::Kind::kTokens;
  update.cached_tokens = r.cached_tokens;
  update.tokens.push_back(sampled);
  updates_.push_back(std::move(update));
  if (r.produced() >= r.max_tokens) end(r, FinishReason::kLength, {}, now);
}

void Router::announce_end(Request& r, FinishReason reason, Error error, Micros now) {
  r.ended = true;
  switch (reason) {
    case FinishReason::kStop: ++stats_.finished_stop; break;
    case FinishReason::kLength: ++stats_.finished_length; break;
    case FinishReason::kCancelled: ++stats_.finished_cancelled; break;
    case FinishReason::kError: ++stats_.finished_error; break;
  }
  observe(stats_.e2e_s, seconds(r.submitted, now));
  observe(stats_.output_len, static_cast<double>(r.produced()));
  RequestUpdate update;
  update.id = r.id;
  update.kind = RequestUpdate::Kind::kFinished;
  update.reason = reason;
  update.error = std::move(error);
  updates_.push_back(std::move(update));
}

// Announces the end; the request itself goes when no plan in flight names it.
void Router::end(Request& r, FinishReason reason, Error error, Micros now) {
  announce_end(r, reason, std::move(error), now);
  if (r.replica == nullptr) {
    leave_queue(r);
    requests_.erase(r.id);
    return;
  }
  r.leaving = Request::Leaving::kEnd;
  if (r.plans_in_flight == 0) settle(r, now);
}

// Frees what a leaving request holds once no plan in flight names it.
void Router::settle(Request& r, Micros now) {
  if (r.plans_in_flight > 0) return;
  Replica& replica = *r.replica;
  const auto computed = std::min(r.slots.size(), r.tokens.size());
  replica.cache.release(std::span(r.tokens).first(computed), r.slots, replica.slots);
  if (r.opened) replica.rows_to_close.push_back(r.row);
  replica.free_rows.push_back(r.row);
  std::erase(replica.running, &r);
  const Request::Leaving why = r.leaving;
  r.replica = nullptr;
  r.row = -1;
  r.opened = false;
  r.slots.clear();
  r.leaving = Request::Leaving::kNo;
  if (why == Request::Leaving::kPause) {
    wait(r, now);
  } else {
    requests_.erase(r.id);
  }
}

// Puts a request into the queue, oldest submission first.
void Router::wait(Request& r, Micros now) {
  r.queued_at = now;
  const auto at = std::upper_bound(
      waiting_.begin(), waiting_.end(), &r, [](const Request* a, const Request* b) {
        return a->submitted != b->submitted ? a->submitted < b->submitted : a->id < b->id;
      });
  waiting_.insert(at, &r);
  if (r.last_token == 0) {
    ++queued_new_;
    queued_new_tokens_ += r.n_prompt;
  }
}

void Router::leave_queue(const Request& r) {
  if (!waiting_.empty() && waiting_.front() == &r) {
    waiting_.pop_front();
  } else if (std::erase(waiting_, &r) == 0) {
    return;
  }
  if (r.last_token == 0) {
    --queued_new_;
    queued_new_tokens_ -= r.n_prompt;
  }
}

EngineStats Router::stats() const {
  EngineStats s = stats_;
  s.draining = draining_;
  s.replicas_ready = static_cast<int32_t>(replicas_.size());
  s.ready = !replicas_.empty() && !draining_;
  s.queued = static_cast<int32_t>(waiting_.size());
  for (const Request* r : waiting_) s.paused += r->last_token != 0 ? 1 : 0;
  s.queued -= s.paused;
  for (const auto& [job, replica] : replicas_) {
    s.slots_total += replica->slots.total();
    s.slots_cached += replica->cache.held();
    s.slots_used += replica->slots.total() - replica->slots.free() - replica->cache.held();
    for (const Request* r : replica->running) s.running += r->ended ? 0 : 1;
  }
  return s;
}

void Router::check_invariants() const {
  size_t placed = 0;
  for (const auto& [job, replica] : replicas_) {
    std::vector<bool> named(static_cast<size_t>(replica->slots.total()), false);
    size_t held = 0;
    for (const Request* r : replica->running) {
      TROUPE_CHECK(requests_.contains(r->id) && r->replica == replica.get()) << r->id;
      TROUPE_CHECK(r->plans_in_flight >= 0 && r->samples_in_flight >= 0) << r->id;
      TROUPE_CHECK(r->plans_in_flight <= limits_.plans_in_flight) << r->id;
      for (const int32_t slot : r->slots) {
        TROUPE_CHECK(!replica->slots.is_free(slot)) << "slot " << slot << " in use and free";
        TROUPE_CHECK(!named[static_cast<size_t>(slot)]) << "slot " << slot << " used twice";
        named[static_cast<size_t>(slot)] = true;
      }
      held += r->slots.size();
      ++placed;
    }
    TROUPE_CHECK(static_cast<int64_t>(held) + replica->cache.held() + replica->slots.free() ==
                 replica->slots.total())
        << "slots leaked on job " << job;
    TROUPE_CHECK(static_cast<int32_t>(replica->running.size() + replica->free_rows.size()) ==
                 replica->info.max_rows)
        << "rows leaked on job " << job;
    std::map<const Request*, int32_t> flights;
    for (const auto& flight : replica->in_flight) {
      for (const auto& item : flight.items) ++flights[item.request];
    }
    for (const auto& [r, n] : flights) {
      TROUPE_CHECK(r->plans_in_flight == n) << "request " << r->id;
    }
  }
  TROUPE_CHECK(placed + waiting_.size() == requests_.size())
      << placed << " + " << waiting_.size() << " of " << requests_.size();
}

}  // namespace troupe
