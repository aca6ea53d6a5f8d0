#pragma once

#include "gpu/base/result.h"
#include "launch/options.h"

#include <sys/types.h>
#include <string>

namespace troupe {

/// A fresh directory (0700) for what one run needs on disk: the join file and Open MPI's session
/// and shared-memory files. In memory (/dev/shm) where there is one. It vanishes with the process
/// however that ends: a small helper process waits for the end of this one and then removes it.
class RunDirectory {
 public:
  /// Forks the helper, so: before any thread is started.
  static Result<RunDirectory> create(const Environment& environment);
  RunDirectory(RunDirectory&& other) noexcept;
  RunDirectory& operator=(RunDirectory&&) = delete;
  ~RunDirectory();

  [[nodiscard]] const std::string& path() const { return path_; }
  /// A new directory (0700) inside; removed with remove_all by the caller or with this one.
  [[nodiscard]] Result<std::string> make_subdirectory(const std::string& name) const;

 private:
  RunDirectory() = default;
  std::string path_;
  int alive_ = -1;     // write end of the pipe whose end tells the helper that we are gone
  pid_t helper_ = -1;  // child
};

/// Writes `text` into a new file that only this user can read (0600); replaces an existing one.
[[nodiscard]] Status write_private_file(const std::string& path, const std::string& text);

}  // namespace troupe
