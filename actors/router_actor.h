#pragma once

#include "actors/messages.h"
#include "actors/node.h"
#include "actors/published.h"
#include "actors/roster.h"
#include "actors/router/recorded_router.h"
#include "actors/state_actor.h"
#include "actors/step_log.h"

#include <caf/error.hpp>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace troupe {

/// The dashboard's picture, made only while somebody looks.
struct Picture {
  std::atomic<Micros> asked{0};  // when somebody last wanted one
  Published<EngineSnapshot> newest;
};

/// What the router actor is built from. The callbacks run on the actor's thread.
struct RouterSetup {
  RouterLimits limits;
  std::string model;
  std::string version;
  std::vector<DetokenizerHandle> detokenizers;  // request id modulo their number
  std::function<void(const ReplicaEvent&)> on_replica;
  std::shared_ptr<Recorder> recorder;  // of the actor alone, shared to be copied; may be null
  std::shared_ptr<Published<EngineStats>> stats;  // shared with the engine, which reads it
  std::shared_ptr<Picture> picture;               // shared with the engine, which asks for it
};

/// The shell around Router: turns messages into events and decisions into messages.
class RouterState {
 public:
  static constexpr const char* kName = "router";
  RouterState(RouterHandle::pointer self, RouterSetup setup);
  RouterHandle::behavior_type make_behavior();

 private:
  void enlist(const RankJoin& join, const RankHandle& rank);
  void lose(uint64_t job, const std::string& reason);
  void drop(uint64_t job);
  void flush();
  void publish_stats();
  void publish_picture(Micros now);

  RouterHandle::pointer self_;
  RouterSetup setup_;
  RecordedRouter router_;
  Roster roster_;
  Micros published_ = 0;
  StepLog steps_;
  bool watched_ = false;
  Micros next_picture_ = 0;
  std::vector<std::vector<RequestUpdate>> outbox_;  // one per detokenizer
};

}  // namespace troupe
