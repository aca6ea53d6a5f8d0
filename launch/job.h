#pragma once

#include "gpu/base/result.h"

#include <sys/types.h>
#include <string>
#include <vector>

namespace troupe {

struct JobCommand {
  std::vector<std::string> argv;         // argv[0] is looked up in PATH
  std::vector<std::string> environment;  // "NAME=value", added to this process's own
};

/// One mpirun and all its ranks: a child process in a session of its own. Dies with the thread that
/// started it (parent-death signal), so that thread must outlive it. Used by one thread.
class Job {
 public:
  /// kNotFound when there is no such program.
  static Result<Job> start(const JobCommand& command);
  Job(Job&& other) noexcept;
  Job& operator=(Job&& other) noexcept;
  /// Kills what is left.
  ~Job();

  /// Becomes readable when the process has ended.
  [[nodiscard]] int exit_fd() const { return exit_; }
  /// Standard output and error of mpirun and the ranks.
  [[nodiscard]] int output_fd() const { return output_; }
  /// Passes `text` (at most 64 KiB) and the end of input to the job. Once.
  [[nodiscard]] Status send_input(const std::string& text);
  /// Complete lines that have arrived, without waiting.
  std::vector<std::string> read_lines();
  /// SIGKILL to every process of the session; does not wait for mpirun, only for the others.
  void kill();
  /// After exit_fd(): ends what is left of the session and says how mpirun ended.
  std::string reap();

 private:
  Job() = default;
  void close_all();
  pid_t pid_ = -1;
  int exit_ = -1;
  int input_ = -1;
  int output_ = -1;
  std::string partial_;
};

/// Ends this process when its parent dies (SIGKILL); false when the parent is gone already. For
/// ranks: mpirun is their parent.
[[nodiscard]] bool die_with_parent();

struct SessionProcess {
  pid_t pid = 0;
  bool ended = false;  // a zombie: nobody has waited for it yet
};
/// Everything in session `session`, from /proc.
[[nodiscard]] std::vector<SessionProcess> processes_of_session(pid_t session);

}  // namespace troupe
