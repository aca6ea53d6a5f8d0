#include "actors/rank_worker.h"

#include <exception>
#include <future>
#include <memory>
#include <utility>

namespace troupe {

Status RankWorker::start(const Make& make) {
  // Owned by this function and by the thread, which may still be inside set_value() when get()
  // returns.
  auto built = std::make_shared<std::promise<Status>>();
  std::future<Status> outcome = built->get_future();
  thread_ = std::thread([this, &make, built] {
    std::unique_ptr<Executor> executor;
    try {
      auto made = make();
      if (!made) return built->set_value(made.error());
      executor = std::move(*made);
    } catch (const std::exception& e) {
      return built->set_value(fail(ErrorCode::kInternal, e.what()));
    }
    n_slots_ = executor->n_slots();
    built->set_value(ok_status());
    try {
      loop(*executor);
    } catch (const std::exception& e) {
      callbacks_.failed(e.what());
    }
  });
  return outcome.get();
}

void RankWorker::push(std::vector<StepPlan>&& plans) {
  {
    const std::lock_guard lock(mutex_);
    for (StepPlan& plan : plans) plans_.push_back(std::move(plan));
    queued_ = plans_.size();
  }
  wake_.notify_one();
}

void RankWorker::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

// The next plan, if there is one; with `wait`, none only when stopping.
std::optional<StepPlan> RankWorker::take(bool wait) {
  std::unique_lock lock(mutex_);
  if (wait) wake_.wait(lock, [this] { return stopping_ || !plans_.empty(); });
  if (stopping_ || plans_.empty()) return std::nullopt;
  StepPlan plan = std::move(plans_.front());
  plans_.pop_front();
  queued_ = plans_.size();
  return plan;
}

void RankWorker::loop(Executor& executor) {
  int32_t enqueued = 0;
  while (!stopping_) {
    if (enqueued > 0 && executor.ready()) {
      StepResult result = executor.collect();
      --enqueued;
      callbacks_.done(std::move(result), static_cast<size_t>(enqueued) + queued_);
    } else if (enqueued == 0 || (enqueued < Executor::kMaxEnqueued && queued_ > 0)) {
      if (const auto plan = take(enqueued == 0)) {
        executor.enqueue(*plan);
        ++enqueued;
      }
    } else {
      std::this_thread::yield();  // a device computes: its step's end or the next plan comes soon
    }
  }
}

}  // namespace troupe
