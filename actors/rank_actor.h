#pragma once

#include "actors/messages.h"
#include "actors/rank_worker.h"
#include "actors/state_actor.h"

#include <functional>
#include <memory>

namespace troupe {

/// How a rank ends: ok after a dismissal, else why. Called once, on the actor's thread.
using RankEnd = std::function<void(Status)>;

/// The shell around a RankWorker: forwards plans, watches the router. Joins when it starts.
class RankState {
 public:
  static constexpr const char* kName = "rank";
  RankState(RankHandle::pointer self, RankJoin join, RouterPort router,
            std::shared_ptr<RankWorker> worker, RankEnd end);
  RankHandle::behavior_type make_behavior();

 private:
  void finish(Status status);

  RankHandle::pointer self_;
  RankJoin join_;
  RouterPort router_;
  std::shared_ptr<RankWorker> worker_;  // shared with run_rank(), which joins its thread
  RankEnd end_;
};

}  // namespace troupe
