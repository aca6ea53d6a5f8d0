#pragma once

#include "actors/engine.h"
#include "actors/engine_snapshot.h"
#include "actors/router/output_estimator.h"
#include "actors/router/replica.h"
#include "actors/router/request.h"
#include "actors/router/waiting_queue.h"
#include "gpu/step.h"

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace troupe {

struct RouterLimits {
  int32_t max_context = 0;                   // tokens, prompt + output
  int32_t max_queue = 256;                   // waiting requests that never ran
  int64_t max_queue_tokens = 0;              // their prompt tokens
  int32_t max_step_tokens = 512;             // budget of one step, prefill and decode together
  int32_t plans_in_flight = kStepsInFlight;  // per replica, at least
  /// While nothing but decodes is to be done, so much time's worth of steps is planned at once:
  /// fewer messages, but what happens meanwhile waits for the steps in flight. 0 = never.
  Micros plan_ahead = 0;
  Micros queue_timeout = 0;    // 0 = none
  int32_t max_overtakes = 16;  // of one waiting request by smaller ones behind it
  bool prefix_cache = true;
  /// Prefill chunks are kept so short that a step with running decodes takes at most this many
  /// times as long as it would without them. 0 = the token budget alone decides.
  double decode_slowdown = 0;
  int32_t min_chunk = 16;  // tokens; progress of a prefill in any case
  /// A waiting request that cannot make its TTFT target any more goes on behind all others, without
  /// targets, instead of being refused.
  bool demote_late = false;
  /// Tenants find each other's cached prefixes.
  bool share_prefixes = false;
  /// A replica whose oldest step has no answer for so long, or for twenty times what such a step is
  /// predicted to take, is overdue(). 0 = never.
  Micros step_timeout = 0;
  std::map<uint64_t, double> tenant_weights = {};  // others weigh 1
};

/// What the shell has to do after an event: send plans to replicas, updates to detokenizers.
struct Decision {
  /// Job, plan: to every rank of the job. Those of one job are neighbours, in order.
  std::vector<std::pair<uint64_t, StepPlan>> plans;
  std::vector<RequestUpdate> updates;
};

/// The router: which request runs where, which token lives in which slot. A pure state machine:
/// time is passed in; no clock, no threads, no I/O. Events change the state, plan() then says what
/// to do. One thread.
class Router {
 public:
  explicit Router(const RouterLimits& limits);
  ~Router();

  // --- events ---
  /// A new request; refused with an immediate kFinished when a limit says so.
  void submit(TokenizedRequest&& request, Micros now);
  /// The client left. Announces kCancelled; unknown ids are ignored.
  void cancel(RequestId id, Micros now);
  /// A stop string was found: the end has been announced by the detokenizer already.
  void finish(RequestId id, Micros now);
  /// A complete replica is there. Returns its epoch.
  uint64_t replica_ready(const ReplicaInfo& info, Micros now);
  /// Its ranks are gone: its requests wait again and keep the tokens that they have.
  void replica_lost(uint64_t job, Micros now);
  /// A rank reports a step. Rank 0's report carries the tokens, the others' only the digest.
  /// An error means that the ranks disagree: the replica cannot be trusted and must be dropped.
  [[nodiscard]] Status apply(uint64_t job, int32_t rank, const StepResult& result, Micros now);
  /// Deadlines and queue timeouts; call it every 100 ms or so.
  void tick(Micros now);
  /// Replicas that are there but do not answer: they are to be dropped.
  [[nodiscard]] std::vector<uint64_t> overdue(Micros now) const;
  /// Forgets all cached prefixes; running requests keep theirs until they end.
  void reset_prefix_cache();
  /// New requests are refused from now on.
  void drain() { draining_ = true; }

  /// Admits and plans as far as the limits allow, and hands over everything that is to be sent.
  Decision plan(Micros now);

  [[nodiscard]] EngineStats stats() const;
  /// For the dashboard. O(slots + tokens of the running requests).
  [[nodiscard]] EngineSnapshot snapshot(Micros now);
  /// Aborts if the books do not balance (design invariants 1, 2 and 11). O(everything); for tests.
  void check_invariants() const;

  static constexpr int32_t kLookAhead = 8;  // waiting requests that are considered at once
  static constexpr int32_t kMaxAhead = 16;  // steps that are planned at once

 private:
  Request* find(RequestId id);
  void announce(Request& r, RequestUpdate&& update);
  void announce_end(Request& r, FinishReason reason, Error error, Micros now);
  void end(Request& r, FinishReason reason, Error error, Micros now);
  void settle(Request& r, Micros now);
  void forget(Request& r);
  void wait(Request& r, Micros now);
  void leave_queue(Request& r);
  void take_token(Request& r, const SampledToken& sampled, Micros now);
  [[nodiscard]] Status check_report(Replica& replica, int32_t rank, const StepResult& result,
                                    bool& stale);

  void admit(Micros now);
  [[nodiscard]] Replica* place(Request& r, Micros now);
  [[nodiscard]] static int32_t coming(const Replica& replica, const Request& r);
  void start(Request& r, Replica& replica, Micros now);
  void explain(const Request& r, EngineSnapshot::Waiting& out);
  [[nodiscard]] static Demand demand_of(const Request& r);
  void refresh(Replica& replica);
  [[nodiscard]] bool steady(const Replica& replica, const Request& r) const;
  bool preempt(const Request& head, Micros now);
  void look_at_targets(Micros now);
  [[nodiscard]] bool hopeless(const Request& r, Micros now) const;
  void give_up_target(Request& r, Micros now);
  [[nodiscard]] double prefill_wait(std::span<const int32_t> prompt, const CacheSalt& salt) const;
  [[nodiscard]] double predicted_wait(const TokenizedRequest& r) const;
  [[nodiscard]] Status promise(const TokenizedRequest& r, Micros now) const;
  void measure_queue(double tokens, Micros now);

  [[nodiscard]] int32_t steps_to_plan(const Replica& replica) const;
  bool plan_step(Replica& replica, StepPlan& plan, Micros now);
  bool settle_paused(Replica& replica, Micros now);
  [[nodiscard]] static bool should_wait(const Replica& replica, const Request& r);
  [[nodiscard]] int32_t prefill_budget(const Replica& replica, const StepShape& decodes,
                                       int32_t budget) const;
  bool add_work(Replica& replica, Request& r, int32_t n_tokens, StepPlan& plan, StepShape& shape);
  void open(Request& r, StepPlan& plan);
  void match(Replica& replica, Request& r) const;
  void make_room(Replica& replica, const Request& asking);

  RouterLimits limits_;
  OutputEstimator lengths_;
  bool draining_ = false;
  uint64_t last_epoch_ = 0;
  std::unordered_map<RequestId, std::unique_ptr<Request>> requests_;
  WaitingQueue waiting_;
  int64_t queued_new_tokens_ = 0;  // prompt tokens of waiting requests that never ran
  int32_t queued_new_ = 0;
  std::set<std::pair<Micros, RequestId>> targets_;  // look_at of waiting requests with a target
  int32_t passed_over_ = 0;  // starts while the request that has waited longest stayed the same
  RequestId longest_waiting_ = 0;
  bool reconsider_ = true;   // something happened that may let a waiting request start
  int32_t plans_since_ = 0;  // the queue was last looked at
  // How fast a queue drains: tokens (prompt and expected output) started per second while one
  // waits.
  double drain_rate_ = 0;
  double drained_ = 0;
  Micros drained_since_ = 0;
  std::map<uint64_t, std::unique_ptr<Replica>> replicas_;  // by job
  std::vector<RequestUpdate> updates_;
  size_t usual_updates_ = 0;
  std::vector<Request*> scratch_;
  EngineStats stats_;
};

}  // namespace troupe
