#pragma once

#include "gpu/base/result.h"
#include "gpu/executor.h"
#include "gpu/step.h"

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace troupe {

/// The thread that computes for one rank: builds the executor, then runs plans in order and keeps
/// the executor's queue filled. A plain thread, because the work blocks and a detached actor that
/// is published may never end.
class RankWorker {
 public:
  using Make = std::function<Result<std::unique_ptr<Executor>>()>;
  struct Callbacks {
    /// A step has ended; `ahead` plans are left to run.
    std::function<void(StepResult&&, size_t ahead)> done;
    std::function<void(const std::string&)> failed;  // a step threw; nothing runs after it
  };
  explicit RankWorker(Callbacks callbacks) : callbacks_(std::move(callbacks)) {}
  ~RankWorker() { stop(); }
  RankWorker(const RankWorker&) = delete;
  RankWorker& operator=(const RankWorker&) = delete;

  /// `make` runs on the new thread and builds the executor; start() waits for it.
  Status start(const Make& make);
  /// Size of the executor's KV pool. After start().
  [[nodiscard]] int32_t n_slots() const { return n_slots_; }
  /// Queues plans. Any thread.
  void push(std::vector<StepPlan>&& plans);
  /// Lets the running plans end, drops the queued ones, joins. Not from the callbacks.
  void stop();

 private:
  void loop(Executor& executor);
  std::optional<StepPlan> take(bool wait);

  Callbacks callbacks_;
  int32_t n_slots_ = 0;
  std::mutex mutex_;  // guards wake_, plans_
  std::condition_variable wake_;
  std::deque<StepPlan> plans_;
  std::atomic<size_t> queued_{0};      // of plans_
  std::atomic<bool> stopping_{false};  // written under mutex_
  std::thread thread_;
};

}  // namespace troupe
