#include "http/generation.h"

#include <utility>

namespace troupe {

Generation::Generation(Engine& engine, std::shared_ptr<EventQueue> queue,
                       std::vector<GenerateRequest>& requests)
    : engine_(engine),
      queue_(std::move(queue)),
      heard_(requests.size()),
      finished_(requests.size()) {
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto choice = static_cast<int32_t>(i);
    ids_.push_back(engine_.submit(
        std::move(requests[i]),
        [queue = queue_, choice](EngineEvent&& e) { queue->push(choice, std::move(e)); }));
  }
}

Generation::~Generation() {
  queue_->close();
  for (size_t i = 0; i < ids_.size(); ++i) {
    if (!finished_[i]) engine_.cancel(ids_[i]);
  }
}

bool Generation::take(AnswerWriter& writer, std::string& out) {
  queue_->take(items_);
  for (EventQueue::Item& item : items_) {
    const auto i = static_cast<size_t>(item.choice);
    if (!heard_[i]) {
      heard_[i] = true;
      ++n_heard_;
    }
    if (item.event.kind == EngineEvent::Kind::kFinished) finish(i, item.event);
    if (!error_) writer.event(item.choice, std::move(item.event), out);
  }
  return !items_.empty();
}

void Generation::finish(size_t choice, EngineEvent& event) {
  finished_[choice] = true;
  ++n_finished_;
  if (error_) return;
  if (event.reason == FinishReason::kError) {
    error_ = std::move(event.error);
  } else if (event.reason == FinishReason::kCancelled) {
    error_ = fail(ErrorCode::kCancelled, "the server ended this request early");
  }
}

}  // namespace troupe
