#include "actors/router_actor.h"

#include "actors/system_config.h"

#include <gtest/gtest.h>
#include <caf/actor_system.hpp>
#include <caf/send.hpp>

#include <atomic>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace troupe {
namespace {

constexpr uint64_t kJob = 7;

/// A rank that hands its plans to the test.
struct FakeRank {
  static constexpr const char* kName = "fake rank";
  using OnPlans = std::function<void(std::vector<StepPlan>&&)>;
  FakeRank(RankHandle::pointer self, OnPlans plans) : self_(self), on_plans_(std::move(plans)) {}
  RankHandle::behavior_type make_behavior() {
    return {[this](std::vector<StepPlan>& plans) { on_plans_(std::move(plans)); },
            [](refused_atom, const std::string& why) { FAIL() << why; },
            [this](dismiss_atom) { self_->quit(); }};
  }
  RankHandle::pointer self_;
  OnPlans on_plans_;
};

struct DeafDetokenizer {
  static constexpr const char* kName = "detokenizer";
  explicit DeafDetokenizer(DetokenizerHandle::pointer /*self*/) {}
  static DetokenizerHandle::behavior_type make_behavior() {
    return {[](OpenStream&) {}, [](std::vector<RequestUpdate>&) {}};
  }
};

RankJoin join_of(int32_t rank) {
  RankJoin join;
  join.job = kJob;
  join.rank = rank;
  join.n_ranks = 2;
  join.n_slots = 512;
  join.max_rows = 4;
  join.max_step_tokens = 64;
  join.model = "m";
  join.version = "v";
  return join;
}

// Rank 0 answers every message of plans with one of results. In one of those, past its first step,
// the other rank has something else.
TEST(RouterActor, DropsAReplicaWhoseDigestsDifferInsideAReport) {
  std::promise<ReplicaEvent> lost;
  std::atomic<uint64_t> spoilt{0};
  SystemConfig config(nullptr);
  caf::actor_system system(config);
  RouterSetup setup;
  setup.limits.max_context = 512;
  setup.limits.plan_ahead = 25'000;
  setup.model = "m";
  setup.version = "v";
  setup.on_replica = [&](const ReplicaEvent& event) {
    if (event.kind == ReplicaEvent::Kind::kLost) lost.set_value(event);
  };
  setup.stats = std::make_shared<Published<EngineStats>>();
  setup.picture = std::make_shared<Picture>();
  setup.detokenizers = {system.spawn<StateActor<DetokenizerHandle, DeafDetokenizer>>()};
  const auto router = system.spawn<StateActor<RouterHandle, RouterState>>(std::move(setup));

  const auto answer = [&](int32_t rank, const std::vector<StepPlan>& plans) {
    std::vector<StepResult> results;
    for (const StepPlan& plan : plans) {
      StepResult result;
      result.epoch = plan.epoch;
      result.step = plan.step;
      result.timings.compute_us = 4000;
      for (const RowWork& work : plan.work) {
        if (work.sample && rank == 0) result.sampled.push_back({work.row, 5, 0, {}, false});
      }
      uint64_t none = 0;
      if (rank == 1 && results.size() == 2 && spoilt.compare_exchange_strong(none, plan.step)) {
        result.digest = 1;
      }
      results.push_back(std::move(result));
    }
    caf::anon_send(router, kJob, rank, std::move(results));
  };
  std::vector<RankHandle> ranks;
  for (int32_t rank = 0; rank < 2; ++rank) {
    const auto handle = system.spawn<StateActor<RankHandle, FakeRank>>(
        [&answer, rank](std::vector<StepPlan>&& plans) { answer(rank, plans); });
    ranks.push_back(caf::actor_cast<RankHandle>(handle));
    caf::anon_send(router, enlist_atom_v, join_of(rank), ranks.back());
  }
  TokenizedRequest request;
  request.id = 1;
  request.prompt = {1, 2, 3};
  request.max_tokens = 400;
  caf::anon_send(router, std::move(request));

  const ReplicaEvent event = lost.get_future().get();
  EXPECT_EQ(event.job, kJob);
  EXPECT_NE(event.reason.find("disagrees about step " + std::to_string(spoilt)), std::string::npos)
      << event.reason;
  for (const RankHandle& rank : ranks) caf::anon_send_exit(rank, caf::exit_reason::kill);
  caf::anon_send_exit(router, caf::exit_reason::user_shutdown);
}

}  // namespace
}  // namespace troupe
