#pragma once

#include "actors/node.h"
#include "gpu/base/result.h"
#include "launch/join_info.h"
#include "launch/options.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace spdlog {
class logger;
}

namespace troupe {

class Checkpoint;
class Server;

/// Blocks SIGTERM and SIGINT for all threads started later and hands them out one by one. SIGPIPE
/// and SIGHUP are ignored.
class Signals {
 public:
  Signals();
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;
  [[nodiscard]] int fd() const { return fd_; }
  /// The number of a signal that has arrived, without waiting.
  [[nodiscard]] std::optional<int> take() const;

 private:
  int fd_ = -1;
};

/// The gateway process's own parts, started in order and stopped in reverse: actors, then HTTP.
class Service {
 public:
  static Result<Service> start(const Checkpoint& checkpoint, const ServeCommand& command,
                               const TlsFiles& tls, std::string rank_host,
                               std::function<void(const ReplicaEvent&)> on_replica,
                               spdlog::logger& logger);
  Service(Service&&) noexcept;
  Service& operator=(Service&&) = delete;
  ~Service();

  [[nodiscard]] GatewayNode& node() { return *node_; }
  [[nodiscard]] std::string url() const;
  /// No new requests; waits for the running ones up to `drain_timeout` seconds. Returns the number
  /// of a second signal, which ends the wait.
  std::optional<int> drain(int32_t drain_timeout, const Signals& signals, spdlog::logger& logger);
  /// Tells every client whose request still runs that this is the end. The destructor does it too.
  void end();

 private:
  Service() = default;
  std::string host_;
  std::unique_ptr<GatewayNode> node_;
  std::unique_ptr<Server> server_;
};

/// The join file's content for this service.
[[nodiscard]] JoinInfo join_info_for(Service& service, const ServeCommand& command,
                                     const TlsMaterial& tls, const std::string& rank_host);

/// Keys of --api-key-file, one a line; empty lines and lines that begin with # do not count.
[[nodiscard]] Result<std::vector<std::string>> read_api_keys(const std::string& path);

/// Refuses what the options alone could not: more ranks than heads.
[[nodiscard]] Status check_against_model(const ServeCommand& command, int32_t ranks,
                                         const Checkpoint& checkpoint);

}  // namespace troupe
