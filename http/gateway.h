#pragma once

#include "http/metrics.h"
#include "http/routes.h"
#include "http/server.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>

namespace troupe {

/// What all sessions of one server share; outlives them. Any thread.
class Gateway {
 public:
  Gateway(Engine& engine_in, const ServerOptions& options_in)
      : engine(engine_in),
        options(options_in),
        routes{engine_in, options.api, options.api_keys, counters} {}

  Engine& engine;
  const ServerOptions options;
  HttpCounters counters;
  const RouteContext routes;
  std::atomic<bool> draining{false};  // connections end after the request in hand

  /// `counted`: wait_idle waits for it; hand it on to end_request.
  void begin_request(bool counted);
  void end_request(bool counted);
  bool wait_idle(std::chrono::steady_clock::time_point deadline);

  /// Open sessions, so that stop can reach them. `hang_up(force)` must be callable from any thread.
  uint64_t add_session(std::function<void(bool force)> hang_up);
  void remove_session(uint64_t id);
  /// Calls hang_up of all sessions: idle ones close, or all with `force`.
  void hang_up(bool force);
  bool wait_no_sessions(std::chrono::steady_clock::time_point deadline);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t next_id_ = 1;
  int64_t requests_ = 0;
  std::map<uint64_t, std::function<void(bool)>> sessions_;
};

}  // namespace troupe
