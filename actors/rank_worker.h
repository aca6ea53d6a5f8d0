#pragma once

#include "gpu/base/result.h"
#include "gpu/step.h"

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace troupe {

/// The thread that computes for one rank: builds what runs the plans, then runs them in order. A
/// plain thread, because the work blocks and a detached actor that is published may never end.
class RankWorker {
 public:
  using Run = std::function<StepResult(const StepPlan&)>;
  struct Callbacks {
    std::function<void(StepResult&&)> done;
    std::function<void(const std::string&)> failed;  // a step threw; nothing runs after it
  };
  /// `make` runs on the new thread and builds the executor; start() waits for it.
  explicit RankWorker(Callbacks callbacks) : callbacks_(std::move(callbacks)) {}
  ~RankWorker() { stop(); }
  RankWorker(const RankWorker&) = delete;
  RankWorker& operator=(const RankWorker&) = delete;

  Status start(const std::function<Result<Run>()>& make);
  /// Queues a plan. Any thread.
  void push(StepPlan&& plan);
  /// Lets the running plan end, drops the queued ones, joins. Not from the callbacks.
  void stop();

 private:
  void loop(const Run& run);

  Callbacks callbacks_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::deque<StepPlan> plans_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace troupe
