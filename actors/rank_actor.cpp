#include "actors/rank_actor.h"

#include <utility>

namespace troupe {

RankState::RankState(RankHandle::pointer self, RankJoin join, RouterPort router,
                     std::shared_ptr<RankWorker> worker, RankEnd end)
    : self_(self),
      join_(std::move(join)),
      router_(std::move(router)),
      worker_(std::move(worker)),
      end_(std::move(end)) {}

RankHandle::behavior_type RankState::make_behavior() {
  self_->set_down_handler([this](const caf::down_msg&) {
    finish(fail(ErrorCode::kUnavailable, "the connection to the gateway is lost"));
  });
  self_->monitor(router_);
  self_->send(router_, enlist_atom_v, join_, RankHandle(self_));
  return {
      [this](std::vector<StepPlan>& plans) { worker_->push(std::move(plans)); },
      [this](refused_atom, const std::string& why) {
        finish(fail(ErrorCode::kInvalidArgument, "the gateway refused this rank: " + why));
      },
      [this](dismiss_atom) { finish(ok_status()); },
  };
}

void RankState::finish(Status status) {
  if (end_) std::exchange(end_, nullptr)(std::move(status));
  self_->quit();
}

}  // namespace troupe
