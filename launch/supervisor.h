#pragma once

#include "actors/node.h"
#include "launch/job.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace spdlog {
class logger;
}

namespace troupe {

struct SupervisorOptions {
  int32_t replicas = 1;
  /// A replica that is lost more than `restart_delays.size()` times within `window` is given up.
  /// The first restart is immediate: open streams wait for it.
  std::vector<std::chrono::milliseconds> restart_delays{std::chrono::milliseconds(0),
                                                        std::chrono::milliseconds(1000),
                                                        std::chrono::milliseconds(2000)};
  std::chrono::seconds window{60};
  /// Where the jobs' own directories are made; each is removed with its job.
  std::string run_directory;
  /// The command of a job whose files belong into `directory`.
  std::function<JobCommand(const std::string& directory)> command;
};

struct SupervisorEvent {
  enum class Kind {
    kStarted,      // a job was started
    kReady,        // its replica serves
    kStartFailed,  // the service cannot start at all; nothing is restarted any more
    kGivenUp,      // a replica fails again and again; nothing is restarted any more
  };
  Kind kind = Kind::kStarted;
  int32_t replica = 0;
  uint64_t job = 0;
  double seconds = 0;  // kReady: since the job's start
  std::string reason;  // kStartFailed, kGivenUp: one sentence
};

/// Starts the replicas' mpirun jobs, watches them, ends all processes of a replica that was lost,
/// and starts it again. One thread, which is the parent of all jobs: they die with this process.
class Supervisor {
 public:
  /// `on_event` is called on the supervisor's thread and must not block. `logger` outlives this.
  Supervisor(SupervisorOptions options, spdlog::logger& logger,
             std::function<void(const SupervisorEvent&)> on_event);
  /// stop(0)
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  /// What every job gets on its standard input; jobs already started are waiting for it. Once. Any
  /// thread.
  void provide_input(std::function<std::string(uint64_t job, int32_t replica)> input);
  /// From the gateway. Events of other jobs (replicas joined by hand) are logged. Any thread.
  void on_replica(const ReplicaEvent& event);
  /// Gives the jobs `grace` to end by themselves (they have been dismissed), ends the rest, returns
  /// when no process is left. Not from on_event.
  void stop(std::chrono::milliseconds grace);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace troupe
