#pragma once

#include "actors/engine.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

namespace troupe {

/// Carries engine events of one HTTP request from engine threads to its session. Push never
/// blocks; memory is bounded: beyond `max_bytes` waiting, token events are dropped and the queue
/// says so, and the session must give the request up.
class EventQueue {
 public:
  struct Item {
    int32_t choice = 0;
    EngineEvent event;
  };

  /// `wake` is called, on the pushing thread, when the session has something new to look at:
  /// events with none that follow at once, the first since take(), or the queue has overflowed. It
  /// must not block.
  EventQueue(size_t max_bytes, std::function<void(bool overflowed)> wake);

  /// Any thread. kFinished is never dropped. After close() everything is.
  void push(int32_t choice, EngineEvent&& event);
  /// Takes all that waits, in order. `out` is cleared first; its memory is reused.
  void take(std::vector<Item>& out);
  /// From now on nothing is kept and `wake` is not called again (nor held).
  void close();

 private:
  std::mutex mutex_;
  const size_t max_bytes_;
  std::function<void(bool)> wake_;
  std::vector<Item> items_;
  size_t bytes_ = 0;
  bool woken_ = false;  // since the last take()
  bool overflowed_ = false;
  bool closed_ = false;
};

}  // namespace troupe
