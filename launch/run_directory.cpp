#include "launch/run_directory.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

namespace troupe {
namespace {

void remove_tree(const std::string& path) {
  std::error_code error;
  // Ranks that are dying may still be adding files.
  for (int i = 0; i < 50; ++i) {
    std::filesystem::remove_all(path, error);
    if (!std::filesystem::exists(path, error)) return;
    usleep(100'000);
  }
}

/// The helper's whole life: holds nothing of the parent but the pipe and waits for its end.
[[noreturn]] void wait_and_remove(int pipe_end, const std::string& path) {
  prctl(PR_SET_NAME, "troupe-cleanup");
  setsid();  // not reached by the terminal's Ctrl-C or a kill of the process group
  for (const int signal_number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) {
    signal(signal_number, SIG_IGN);
  }
  if (pipe_end != 3) dup2(pipe_end, 3);
  close_range(4, ~0U, 0);
  const int null = open("/dev/null", O_RDWR);
  for (int fd = 0; fd < 3; ++fd) dup2(null, fd);
  if (null > 3) close(null);
  char byte = 0;
  while (read(3, &byte, 1) < 0 && errno == EINTR) {
  }
  remove_tree(path);
  _exit(0);
}

Result<std::string> make_directory(const Environment& environment) {
  for (const std::string& base :
       {std::string("/dev/shm"), environment.runtime_dir, environment.temp_dir}) {
    if (base.empty()) continue;
    std::string path = base + "/troupe-XXXXXX";
    if (mkdtemp(path.data()) != nullptr) return path;
  }
  return fail(ErrorCode::kIo, std::string("cannot create a run directory in /dev/shm, "
                                          "XDG_RUNTIME_DIR or ") +
                                  environment.temp_dir + ": " + std::strerror(errno));
}

}  // namespace

Result<RunDirectory> RunDirectory::create(const Environment& environment) {
  auto path = make_directory(environment);
  if (!path) return path.error();
  RunDirectory directory;
  directory.path_ = *path;
  int ends[2] = {-1, -1};
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return fail(ErrorCode::kIo, std::string("cannot create a pipe: ") + std::strerror(errno));
  }
  directory.alive_ = ends[1];
  directory.helper_ = fork();
  if (directory.helper_ == 0) {
    close(ends[1]);
    wait_and_remove(ends[0], directory.path_);
  }
  close(ends[0]);
  if (directory.helper_ < 0) {
    return fail(ErrorCode::kIo, std::string("cannot start a process: ") + std::strerror(errno));
  }
  return directory;
}

RunDirectory::RunDirectory(RunDirectory&& other) noexcept
    : path_(std::exchange(other.path_, {})),
      alive_(std::exchange(other.alive_, -1)),
      helper_(std::exchange(other.helper_, -1)) {}

RunDirectory::~RunDirectory() {
  if (path_.empty()) return;
  remove_tree(path_);
  if (alive_ >= 0) close(alive_);
  if (helper_ > 0) {
    while (waitpid(helper_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
}

Result<std::string> RunDirectory::make_subdirectory(const std::string& name) const {
  std::string path = path_ + "/" + name;
  if (mkdir(path.c_str(), 0700) == 0) return path;
  return fail(ErrorCode::kIo, "cannot create " + path + ": " + std::strerror(errno));
}

Status write_private_file(const std::string& path, const std::string& text) {
  const auto failed = [&path] {
    return fail(ErrorCode::kIo, "cannot write " + path + ": " + std::strerror(errno));
  };
  // A new inode under the final name: nobody who could open an old file there sees the key.
  std::string temporary = path + ".XXXXXX";
  const int fd = mkostemp(temporary.data(), O_CLOEXEC);  // mode 0600
  if (fd < 0) return failed();
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) break;
    done += static_cast<size_t>(n);
  }
  const bool complete = done == text.size() && close(fd) == 0;
  if (complete && rename(temporary.c_str(), path.c_str()) == 0) return ok_status();
  const auto error = failed();
  unlink(temporary.c_str());
  return error;
}

}  // namespace troupe
