#pragma once

#include "actors/router/recorder.h"
#include "actors/router/router.h"

#include <cstdint>
#include <utility>
#include <vector>

namespace troupe {

/// A Router whose events and decisions also go to a recorder, if there is one (borrowed). Every
/// function is the Router's.
class RecordedRouter {
 public:
  RecordedRouter(const RouterLimits& limits, Recorder* recorder)
      : router_(limits), recorder_(recorder) {}

  void submit(TokenizedRequest&& request, Micros now) {
    if (recorder_ != nullptr) recorder_->submit(request, now);
    router_.submit(std::move(request), now);
  }
  void cancel(RequestId id, Micros now) {
    if (recorder_ != nullptr) recorder_->cancel(id, now);
    router_.cancel(id, now);
  }
  void finish(RequestId id, Micros now) {
    if (recorder_ != nullptr) recorder_->finish(id, now);
    router_.finish(id, now);
  }
  uint64_t replica_ready(const ReplicaInfo& info, Micros now) {
    const uint64_t epoch = router_.replica_ready(info, now);
    if (recorder_ != nullptr) recorder_->replica_ready(info, epoch, now);
    return epoch;
  }
  void replica_lost(uint64_t job, Micros now) {
    if (recorder_ != nullptr) recorder_->replica_lost(job, now);
    router_.replica_lost(job, now);
  }
  [[nodiscard]] Status apply(uint64_t job, int32_t rank, const StepResult& result, Micros now) {
    if (recorder_ != nullptr) recorder_->apply(job, rank, result, now);
    return router_.apply(job, rank, result, now);
  }
  void tick(Micros now) {
    if (recorder_ != nullptr) recorder_->tick(now);
    router_.tick(now);
  }
  [[nodiscard]] std::vector<uint64_t> overdue(Micros now) const { return router_.overdue(now); }
  void reset_prefix_cache() {
    if (recorder_ != nullptr) recorder_->reset_prefix_cache();
    router_.reset_prefix_cache();
  }
  void drain() {
    if (recorder_ != nullptr) recorder_->drain();
    router_.drain();
  }
  Decision plan(Micros now) {
    Decision decision = router_.plan(now);
    if (recorder_ != nullptr) recorder_->planned(decision, now);
    return decision;
  }
  [[nodiscard]] EngineStats stats() const { return router_.stats(); }
  [[nodiscard]] EngineSnapshot snapshot(Micros now) { return router_.snapshot(now); }
  void check_invariants() const { router_.check_invariants(); }

 private:
  Router router_;
  Recorder* recorder_;
};

}  // namespace troupe
