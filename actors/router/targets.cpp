// Targets: how long a first token takes, what can be promised at the door and what has become
// impossible since.

#include "actors/router/router.h"

#include "actors/router/observe.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <span>
#include <string>

namespace troupe {
namespace {

constexpr Micros kRateWindow = 100'000;
constexpr Micros kLookAgain = 20'000;  // at a target that is still possible

std::string in_seconds(double micros) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g s", micros * 1e-6);
  return text;
}

Error late(double predicted, Micros wanted) {
  return fail(ErrorCode::kDeadlineExceeded, "the predicted time to the first token is " +
                                                in_seconds(predicted) + ", over the wanted " +
                                                in_seconds(static_cast<double>(wanted)) +
                                                "; try again later");
}

}  // namespace

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

void Router::measure_queue(double tokens, Micros now) {
  drained_ += tokens;
  if (now - drained_since_ < kRateWindow) return;
  const double rate = drained_ / seconds(drained_since_, now);
  drain_rate_ = drain_rate_ == 0 ? rate : 0.7 * drain_rate_ + 0.3 * rate;
  drained_ = 0;
  drained_since_ = now;
}

// Waiting requests whose target has become impossible are told so now: whoever asked may try
// elsewhere, and what they would have taken goes to those that can be served in time.
void Router::look_at_targets(Micros now) {
  while (!targets_.empty() && targets_.begin()->first < now) {
    Request& r = *find(targets_.begin()->second);
    if (hopeless(r, now)) {
      give_up_target(r, now);
      continue;
    }
    // The replicas have got faster, or owe less, since it came. Its place in the queue stays.
    targets_.erase(targets_.begin());
    r.look_at = now + kLookAgain;
    targets_.emplace(r.look_at, r.id);
  }
}

bool Router::hopeless(const Request& r, Micros now) const {
  if (r.ttft_target == 0 || r.started) return false;
  const double wait = prefill_wait(r.tokens, r.cache_salt);
  return wait + static_cast<double>(now - r.submitted) > static_cast<double>(r.ttft_target);
}

void Router::give_up_target(Request& r, Micros now) {
  if (!limits_.demote_late) {
    const double wait =
        prefill_wait(r.tokens, r.cache_salt) + static_cast<double>(now - r.submitted);
    return end(r, FinishReason::kError, late(wait, r.ttft_target), now);
  }
  leave_queue(r);
  r.ttft_target = r.tpot_target = 0;
  r.priority = std::numeric_limits<int32_t>::max();
  wait(r, now);
}

// Microseconds from now to the first token of a request that starts at once, 0 when too little is
// known: the prefill that is owed on the replica where that is least, in steps of the usual size.
double Router::prefill_wait(std::span<const int32_t> prompt, const CacheSalt& salt) const {
  double best = -1;
  for (const auto& [job, replica] : replicas_) {
    if (!replica->step_time.knows()) return 0;
    int64_t owed = static_cast<int64_t>(prompt.size()) -
                   replica->cache.peek(prompt.first(prompt.size() - 1), salt).cached;
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
               std::max(1, std::min(limits_.max_step_tokens, replica->info.max_step_tokens) -
                               shape.decodes)));
    const int64_t steps = (owed + budget - 1) / budget;
    shape.prefill = static_cast<int32_t>(std::min<int64_t>(owed, budget));
    shape.prefill_context = int64_t{shape.prefill} * static_cast<int64_t>(prompt.size()) / 2;
    const double time = static_cast<double>(steps) * replica->step_time.predict(shape);
    if (best < 0 || time < best) best = time;
  }
  return std::max(0.0, best);
}

// The same for a request that joins the queue now: the queue ahead of it goes at the rate at which
// it drains.
double Router::predicted_wait(const TokenizedRequest& r) const {
  const double best = prefill_wait(r.prompt, {r.cache_salt, limits_.share_prefixes ? 0 : r.tenant});
  if (best == 0 || queued_new_ == 0) return best;
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
      return late(wait, r.ttft_target);
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
