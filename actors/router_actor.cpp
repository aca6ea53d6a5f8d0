#include "actors/router_actor.h"

#include "actors/clock.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace troupe {
namespace {

constexpr Micros kPublishEvery = 50'000;
constexpr std::chrono::milliseconds kTick{100};
constexpr Micros kPictureEvery = 200'000;
constexpr Micros kPictureShare = 50;       // at most one part in so many of the router's time
constexpr Micros kWatchedFor = 3'000'000;  // after the last question

}  // namespace

RouterState::RouterState(RouterHandle::pointer self, RouterSetup setup)
    : self_(self),
      setup_(std::move(setup)),
      router_(setup_.limits, setup_.recorder.get()),
      roster_(setup_.model, setup_.version),
      outbox_(setup_.detokenizers.size()) {}

RouterHandle::behavior_type RouterState::make_behavior() {
  self_->set_down_handler([this](const caf::down_msg& down) {
    lose(roster_.job_of(down.source),
         "a rank is gone (" + self_->system().render(down.reason) + ")");
  });
  self_->delayed_send(self_, kTick, clock_atom_v);
  publish_stats();
  return {
      [this](enlist_atom, const RankJoin& join, const RankHandle& rank) { enlist(join, rank); },
      [this](uint64_t job, int32_t rank, const std::vector<StepResult>& results) {
        const Micros now = steady_micros();
        for (const StepResult& result : results) {
          if (watched_) steps_.done(job, rank, result, now);
          const Status status = router_.apply(job, rank, result, now);
          if (!status) lose(job, status.error().message);
        }
        if (rank == 0) flush();
      },
      [this](failed_atom, uint64_t job, const std::string& what) { lose(job, what); },
      [this](TokenizedRequest& request) {
        router_.submit(std::move(request), steady_micros());
        flush();
      },
      [this](cancel_atom, RequestId id) {
        router_.cancel(id, steady_micros());
        flush();
      },
      [this](finish_atom, RequestId id) {
        router_.finish(id, steady_micros());
        flush();
      },
      [this](dismiss_atom, uint64_t job) {
        for (const uint64_t each : roster_.jobs()) {
          if (job == 0 || each == job) drop(each);
        }
      },
      [this](drain_atom) {
        router_.drain();
        publish_stats();
      },
      [this](forget_atom) {
        router_.reset_prefix_cache();
        flush();
        publish_stats();
      },
      [this](clock_atom) {
        const Micros now = steady_micros();
        router_.tick(now);
        for (const uint64_t job : router_.overdue(now)) lose(job, "it has not answered a step");
        const bool watched = now - setup_.picture->asked.load() < kWatchedFor;
        if (watched_ && !watched) steps_.clear();
        watched_ = watched;
        flush();
        publish_stats();
        self_->delayed_send(self_, kTick, clock_atom_v);
      },
  };
}

void RouterState::enlist(const RankJoin& join, const RankHandle& rank) {
  auto replica = roster_.enlist(join, rank);
  if (!replica) {
    self_->send(rank, refused_atom_v, replica.error().message);
    return;
  }
  self_->monitor(rank);
  if (replica->n_ranks == 0) return;
  router_.replica_ready(*replica, steady_micros());
  flush();
  publish_stats();
  setup_.on_replica({ReplicaEvent::Kind::kReady, join.job, {}});
}

void RouterState::lose(uint64_t job, const std::string& reason) {
  if (roster_.ranks(job).empty()) return;
  drop(job);
  setup_.on_replica({ReplicaEvent::Kind::kLost, job, reason});
}

// Drops a whole replica: its ranks are told to leave, its requests wait for another.
void RouterState::drop(uint64_t job) {
  for (const RankHandle& rank : roster_.ranks(job)) {
    if (!rank) continue;
    self_->demonitor(rank.address());
    self_->send(rank, dismiss_atom_v);
  }
  roster_.remove(job);
  steps_.forget(job);
  router_.replica_lost(job, steady_micros());
  flush();
  publish_stats();
}

// Sends what the router decided: plans to all ranks of a replica, updates to the detokenizers.
void RouterState::flush() {
  const Micros now = steady_micros();
  Decision decision = router_.plan(now);
  for (auto next = decision.plans.begin(); next != decision.plans.end();) {
    const uint64_t job = next->first;
    std::vector<StepPlan> batch;
    for (; next != decision.plans.end() && next->first == job; ++next) {
      if (watched_) steps_.planned(job, next->second);
      batch.push_back(std::move(next->second));
    }
    for (const RankHandle& rank : roster_.ranks(job)) self_->send(rank, batch);
  }
  for (RequestUpdate& update : decision.updates) {
    outbox_[update.id % outbox_.size()].push_back(std::move(update));
  }
  for (size_t i = 0; i < outbox_.size(); ++i) {
    if (outbox_[i].empty()) continue;
    self_->send(setup_.detokenizers[i], std::move(outbox_[i]));
    outbox_[i].clear();
  }
  if (now - published_ > kPublishEvery) publish_stats();
  if (watched_ && now > next_picture_) publish_picture(now);
}

void RouterState::publish_stats() {
  published_ = steady_micros();
  setup_.stats->set(router_.stats());
}

void RouterState::publish_picture(Micros now) {
  EngineSnapshot picture = router_.snapshot(now);
  for (EngineSnapshot::Replica& replica : picture.replicas) {
    const auto n_ranks = static_cast<int32_t>(roster_.ranks(replica.job).size());
    steps_.describe(replica.job, n_ranks, now, replica);
  }
  setup_.picture->newest.set(std::move(picture));
  const Micros took = steady_micros() - now;
  next_picture_ = now + std::max(kPictureEvery, kPictureShare * took);
}

}  // namespace troupe
