#pragma once

#include "actors/engine.h"
#include "gpu/base/result.h"
#include "gpu/executor.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

/// What launch/ needs of the actors: the two kinds of node, without a CAF type.
namespace troupe {

class Checkpoint;
class Communicator;

/// PEM files of this run; all three are required, there is no plain mode.
struct TlsFiles {
  std::string certificate;
  std::string key;
  std::string ca;
};

struct GatewayOptions {
  std::string served_name;         // empty = the checkpoint's name
  std::string host = "127.0.0.1";  // where ranks dial in
  uint16_t port = 0;               // 0 = any free one
  TlsFiles tls;
  int32_t tokenizers = 1;
  int32_t max_queue = 256;                         // waiting requests, beyond: kQueueFull
  int32_t max_queue_tokens = 1 << 20;              // their prompt tokens
  int32_t max_rows = 64;                           // running requests per replica
  int32_t max_step_tokens = 512;                   // budget of one step
  std::chrono::milliseconds queue_timeout{60000};  // a waiting request fails with kUnavailable
  std::string record;                              // file for the router's log, empty = none
  int64_t record_limit = int64_t{1} << 30;         // bytes
  std::function<void(const std::string&)> on_record_end;  // told when the log ends early
};

/// What happens to replicas, for the supervisor; being dismissed is no event. Called on an engine
/// thread; must not block.
struct ReplicaEvent {
  enum class Kind { kReady, kLost };
  Kind kind = Kind::kReady;
  uint64_t job = 0;    // RankOptions::job of its ranks
  std::string reason;  // kLost
};

/// The gateway process's node: tokenizers, router, detokenizers. Ranks join over TLS.
class GatewayNode : public Engine {
 public:
  static Result<std::unique_ptr<GatewayNode>> start(
      const Checkpoint& checkpoint, const GatewayOptions& options,
      std::function<void(const ReplicaEvent&)> on_replica);
  [[nodiscard]] virtual uint16_t port() const = 0;
  /// Refuses new requests from now on; running ones go on.
  virtual void drain() = 0;
  /// Ends every stream with kUnavailable, soon, and refuses all new ones: for the very end.
  virtual void end_streams() = 0;
  /// Tells the ranks of a replica to leave (0 = all).
  virtual void dismiss(uint64_t job) = 0;
  /// A replica inside this process: `communicators.size()` ranks on threads of their own.
  virtual Status add_local_replica(const Checkpoint& checkpoint, const ExecutorOptions& options,
                                   std::vector<std::unique_ptr<Communicator>> communicators) = 0;
};

struct RankOptions {
  std::string host;  // of the gateway
  uint16_t port = 0;
  TlsFiles tls;
  uint64_t job = 0;  // the same on all ranks of an mpirun job, random, not 0
  ExecutorOptions executor;
};

/// Joins the gateway and serves until dismissed (returns ok) or cut off from it (kUnavailable).
/// Blocks.
Status run_rank(const Checkpoint& checkpoint, const RankOptions& options,
                Communicator& communicator);

}  // namespace troupe
