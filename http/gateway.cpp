#include "http/gateway.h"

#include <utility>

namespace troupe {

void Gateway::begin_request(bool counted) {
  counters.requests.fetch_add(1);
  const std::lock_guard lock(mutex_);
  if (counted) ++requests_;
}

void Gateway::end_request(bool counted) {
  counters.requests.fetch_sub(1);
  const std::lock_guard lock(mutex_);
  if (counted) --requests_;
  changed_.notify_all();
}

bool Gateway::wait_idle(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline, [&] { return requests_ == 0; });
}

uint64_t Gateway::add_session(std::function<void(bool)> hang_up_one) {
  const std::lock_guard lock(mutex_);
  sessions_.emplace(next_id_, std::move(hang_up_one));
  return next_id_++;
}

void Gateway::remove_session(uint64_t id) {
  const std::lock_guard lock(mutex_);
  sessions_.erase(id);
  changed_.notify_all();
}

void Gateway::hang_up(bool force) {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, hang_up_one] : sessions_) hang_up_one(force);
}

bool Gateway::wait_no_sessions(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline, [&] { return sessions_.empty(); });
}

}  // namespace troupe
