#include "http/event_queue.h"

#include <utility>

namespace troupe {
namespace {

size_t cost(const EngineEvent& event) {
  size_t bytes = sizeof(EventQueue::Item) + event.text.size() + 4 * event.tokens.size();
  for (const LogprobEntry& entry : event.logprobs) {
    bytes += sizeof(entry) * (1 + entry.top.size());
  }
  return bytes;
}

}  // namespace

EventQueue::EventQueue(size_t max_bytes, std::function<void(bool overflowed)> wake)
    : max_bytes_(max_bytes), wake_(std::move(wake)) {}

void EventQueue::push(int32_t choice, EngineEvent&& event) {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  const bool last = event.kind == EngineEvent::Kind::kFinished;
  const size_t bytes = cost(event);
  bool wake = !woken_ && !event.more;
  if (!last && bytes_ + bytes > max_bytes_) {
    wake = !overflowed_;
    overflowed_ = true;
  } else {
    bytes_ += bytes;
    items_.push_back({choice, std::move(event)});
  }
  if (!wake) return;
  woken_ = true;
  if (wake_) wake_(overflowed_);
}

void EventQueue::take(std::vector<Item>& out) {
  out.clear();
  const std::lock_guard lock(mutex_);
  out.swap(items_);
  woken_ = false;
  bytes_ = 0;
}

void EventQueue::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  wake_ = nullptr;
  items_.clear();
}

}  // namespace troupe
