#include "actors/rank_worker.h"

#include <exception>
#include <future>
#include <memory>
#include <utility>

namespace troupe {

Status RankWorker::start(const std::function<Result<Run>()>& make) {
  // Owned by this function and by the thread, which may still be inside set_value() when get()
  // returns.
  auto built = std::make_shared<std::promise<Status>>();
  std::future<Status> outcome = built->get_future();
  thread_ = std::thread([this, &make, built] {
    Run run;
    try {
      auto made = make();
      if (!made) return built->set_value(made.error());
      run = std::move(*made);
    } catch (const std::exception& e) {
      return built->set_value(fail(ErrorCode::kInternal, e.what()));
    }
    built->set_value(ok_status());
    loop(run);
  });
  return outcome.get();
}

void RankWorker::push(StepPlan&& plan) {
  {
    const std::lock_guard lock(mutex_);
    plans_.push_back(std::move(plan));
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

void RankWorker::loop(const Run& run) {
  while (true) {
    StepPlan plan;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !plans_.empty(); });
      if (stopping_) return;
      plan = std::move(plans_.front());
      plans_.pop_front();
    }
    try {
      callbacks_.done(run(plan));
    } catch (const std::exception& e) {
      return callbacks_.failed(e.what());
    }
  }
}

}  // namespace troupe
