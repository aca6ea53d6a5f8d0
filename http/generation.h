#pragma once

#include "actors/engine.h"
#include "http/api/call.h"
#include "http/event_queue.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace troupe {

/// The engine side of one HTTP request, for all its choices: submits them, feeds what comes back to
/// the writer, and whatever happens leaves nothing running. One thread.
class Generation {
 public:
  /// Submits `requests`, which are moved from. The engine outlives this.
  Generation(Engine& engine, std::shared_ptr<EventQueue> queue,
             std::vector<GenerateRequest>& requests);
  /// Cancels what has not finished.
  ~Generation();
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  /// Feeds what has arrived to the writer, until the first error; false if nothing had arrived.
  bool take(AnswerWriter& writer, std::string& out);
  /// Every choice has been heard of: none can be refused any more.
  [[nodiscard]] bool accepted() const { return n_heard_ == ids_.size(); }
  [[nodiscard]] bool finished() const { return n_finished_ == ids_.size(); }
  /// The first one of any choice.
  [[nodiscard]] const std::optional<Error>& error() const { return error_; }

 private:
  void finish(size_t choice, EngineEvent& event);

  Engine& engine_;
  std::shared_ptr<EventQueue> queue_;  // shared with the sinks that the engine holds
  std::vector<EventQueue::Item> items_;
  std::vector<RequestId> ids_;
  std::vector<bool> heard_;  // a first event has come
  std::vector<bool> finished_;
  size_t n_heard_ = 0;
  size_t n_finished_ = 0;
  std::optional<Error> error_;
};

}  // namespace troupe
