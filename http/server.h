#pragma once

#include "actors/engine.h"
#include "gpu/base/result.h"
#include "http/api/call.h"

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace troupe {

/// The gateway's options; all checked by Server::start.
struct ServerOptions {
  std::string host = "127.0.0.1";     // a literal IPv4 or IPv6 address, or "localhost"
  uint16_t port = 8000;               // 0 = any free one
  int32_t threads = 1;                // that run sessions
  int64_t max_body = 2 << 20;         // bytes
  int32_t max_connections = 10'000;   // more are told 503
  std::vector<std::string> api_keys;  // any of them opens all routes; empty = no key needed
  bool insecure = false;              // allow other hosts to connect without a key
  size_t max_buffered = 1 << 20;      // bytes of events waiting for a slow reader, per request
  std::chrono::milliseconds header_timeout{10'000};  // from connect or first byte to the whole head
  std::chrono::milliseconds idle_timeout{75'000};    // between requests of one connection
  std::chrono::milliseconds body_timeout{60'000};    // for the whole body
  std::chrono::milliseconds write_timeout{30'000};   // one write that makes no progress
  ApiLimits api;
};

/// The OpenAI-compatible HTTP/1.1 gateway over an Engine. Runs its own threads. All functions: any
/// thread but the sessions' own.
class Server {
 public:
  /// Binds and starts to serve. `engine` must outlive the Server. Errors: kInvalidArgument for
  /// options (an address that is not loopback without api_keys needs `insecure`), kIo if the
  /// address cannot be bound.
  static Result<std::unique_ptr<Server>> start(Engine& engine, const ServerOptions& options);

  ~Server();  // stop()
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// The port in use.
  [[nodiscard]] uint16_t port() const;

  /// From now on every answer closes its connection; idle connections close at once. New ones are
  /// still answered, so that probes and clients hear from the (drained) engine where they stand.
  void drain();

  /// True when no request is being answered any more, but for those that came after drain(); false
  /// if that is not so by `deadline`.
  [[nodiscard]] bool wait_idle(std::chrono::steady_clock::time_point deadline);

  /// Ends everything at once: open generations are cancelled, connections closed, threads joined.
  void stop();

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace troupe
