#include "actors/router/router.h"

#include "actors/router/observe.h"
#include "actors/router/planted_bug.h"
#include "gpu/base/check.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <string>
#include <utility>

namespace troupe {
namespace {

constexpr double kManyTimes = 20;         // what a step is predicted to take, before it is overdue
constexpr Micros kPatience = 10'000'000;  // a request without a target can start so late

Histogram make_histogram(std::vector<double> bounds) {
  Histogram h;
  h.counts.assign(bounds.size() + 1, 0);
  h.bounds = std::move(bounds);
  return h;
}

}  // namespace

Router::Router(const RouterLimits& limits) : limits_(limits), waiting_(limits.tenant_weights) {
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
  if (const Status kept = promise(in, now); !kept) {
    return refuse(kept.error().code, kept.error().message);
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
  r.priority = in.priority;
  r.tenant = in.tenant;
  r.cache_salt = {in.cache_salt, limits_.share_prefixes ? 0 : in.tenant};
  for (size_t i = 0; i < std::min(r.tokens.size(), kWorthWaiting); ++i)  // a token at a time
    r.head = (r.head ^ static_cast<uint64_t>(r.tokens[i])) * 0x100000001b3U + 1;
  r.ttft_target = in.ttft_target;
  r.tpot_target = in.tpot_target;
  r.request_class = OutputEstimator::class_of(in.endpoint, r.n_prompt);
  waiting_.arrive(r);
  requests_.emplace(r.id, std::move(owned));

  ++stats_.requests_accepted;
  stats_.prompt_tokens += static_cast<uint64_t>(n_prompt);
  observe(stats_.prompt_len, static_cast<double>(n_prompt));
  RequestUpdate accepted;
  accepted.kind = RequestUpdate::Kind::kAccepted;
  accepted.prompt_tokens = r.n_prompt;
  announce(r, std::move(accepted));
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
  reconsider_ = true;
  // Requests accepted before any replica was known may be too large for what came.
  for (Request* r : waiting_.all()) {
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
  reconsider_ = true;
  for (Request* r : dead->running) {
    r->replica = nullptr;
    r->row = -1;
    r->opened = false;
    r->slots.clear();
    r->prefix = nullptr;
    r->in_tree = r->borrowed = 0;
    r->samples_in_flight = r->plans_in_flight = 0;
    r->leaving = Request::Leaving::kNo;
    if (r->ended) {
      forget(*r);
    } else {
      wait(*r, now);
    }
  }
}

std::vector<uint64_t> Router::overdue(Micros now) const {
  std::vector<uint64_t> jobs;
  if (limits_.step_timeout <= 0) return jobs;
  for (const auto& [job, replica] : replicas_) {
    if (replica->in_flight.empty()) continue;
    const Replica::Flight& step = replica->in_flight.front();
    const auto since = static_cast<double>(now - std::max(step.planned_at, replica->answered_at));
    const double predicted =
        replica->step_time.knows() ? replica->step_time.predict(step.shape) : 0;
    if (since > std::max(static_cast<double>(limits_.step_timeout), kManyTimes * predicted)) {
      jobs.push_back(job);
    }
  }
  return jobs;
}

void Router::tick(Micros now) {
  look_at_targets(now);
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

void Router::reset_prefix_cache() {
  for (const auto& [job, replica] : replicas_) replica->cache.reset(replica->slots);
}

// Frees what a leaving request holds once no plan in flight names it.
void Router::settle(Request& r, Micros now) {
  if (r.plans_in_flight > 0 && !TROUPE_BUG(3)) return;
  Replica& replica = *r.replica;
  size_t keep = std::min(r.slots.size(), r.tokens.size());
  if (r.poisoned || !limits_.prefix_cache) keep = static_cast<size_t>(r.in_tree);
  replica.cache.release(std::span(r.tokens).first(keep), r.slots, r.in_tree, r.cache_salt, r.prefix,
                        replica.slots);
  // Others would only fail on the same values.
  if (r.poisoned) replica.cache.reset(replica.slots);
  if (r.opened && !TROUPE_BUG(4)) replica.rows_to_close.push_back(r.row);
  replica.free_rows.push_back(r.row);
  replica.admission.clear(r.row);
  std::erase(replica.running, &r);
  for (auto [it, end] = replica.computing.equal_range(r.head); it != end;)
    it = it->second == &r ? replica.computing.erase(it) : std::next(it);
  if (r.tpot_target > 0) --replica.with_tpot;
  const Request::Leaving why = r.leaving;
  r.replica = nullptr;
  r.row = -1;
  r.opened = false;
  r.slots.clear();
  r.prefix = nullptr;
  r.in_tree = r.borrowed = 0;
  r.leaving = Request::Leaving::kNo;
  reconsider_ = true;
  if (why == Request::Leaving::kPause) {
    wait(r, now);
  } else {
    forget(r);
  }
}

void Router::forget(Request& r) {
  waiting_.depart(r);
  requests_.erase(r.id);
}

void Router::wait(Request& r, Micros now) {
  r.queued_at = now;
  r.overtaken = 0;
  r.start_by = r.submitted + kPatience;
  if (r.ttft_target > 0 && !r.started) {
    const double prefill = prefill_wait(r.tokens, r.cache_salt);
    r.start_by = r.submitted + r.ttft_target - static_cast<Micros>(prefill);
    r.look_at = r.start_by;
    targets_.emplace(r.look_at, r.id);
  }
  if (waiting_.empty()) {
    drained_ = 0;
    drained_since_ = now;
  }
  waiting_.push(r);
  reconsider_ = true;
  if (r.started) return;
  ++queued_new_;
  queued_new_tokens_ += r.n_prompt;
}

void Router::leave_queue(Request& r) {
  reconsider_ = true;
  if (!waiting_.remove(r) || r.started) return;
  targets_.erase({r.look_at, r.id});
  --queued_new_;
  queued_new_tokens_ -= r.n_prompt;
}

}  // namespace troupe
