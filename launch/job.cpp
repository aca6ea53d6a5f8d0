#include "launch/job.h"

#include "gpu/base/check.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

namespace troupe {
namespace {

struct Pipe {
  int read_end = -1;
  int write_end = -1;
  ~Pipe() {
    if (read_end >= 0) close(read_end);
    if (write_end >= 0) close(write_end);
  }
  Pipe() = default;
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  bool open() {
    int ends[2] = {-1, -1};
    if (pipe2(ends, O_CLOEXEC) != 0) return false;
    read_end = ends[0];
    write_end = ends[1];
    return true;
  }
};

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  result.reserve(texts.size() + 1);
  for (auto& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

/// In the child, between fork and exec: async-signal-safe calls only.
[[noreturn]] void become(char* const* argv, char* const* environment, int input, int output,
                         int report, pid_t parent) {
  // Above 3 first, so that no dup2 below overwrites an end that is still needed.
  input = fcntl(input, F_DUPFD, 10);
  output = fcntl(output, F_DUPFD, 10);
  report = fcntl(report, F_DUPFD, 10);
  dup2(input, STDIN_FILENO);
  dup2(output, STDOUT_FILENO);
  dup2(output, STDERR_FILENO);
  dup2(report, 3);
  fcntl(3, F_SETFD, FD_CLOEXEC);
  close_range(4, ~0U, 0);  // sockets of the gateway among them
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  setsid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);  // it died before the line above
  execvpe(argv[0], argv, environment);
  const int error = errno;
  const ssize_t n = write(3, &error, sizeof(error));
  _exit(n == sizeof(error) ? 127 : 126);
}

}  // namespace

bool die_with_parent() {
  const pid_t parent = getppid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  return getppid() == parent;
}

std::vector<SessionProcess> processes_of_session(pid_t session) {
  std::vector<SessionProcess> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename();
    pid_t pid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), pid).ec != std::errc()) continue;
    std::ifstream file(entry.path() / "stat");
    std::string stat;
    if (!std::getline(file, stat)) continue;
    // pid (any text) state ppid pgrp session ...
    const size_t bracket = stat.rfind(')');
    if (bracket == std::string::npos) continue;
    std::istringstream rest(stat.substr(bracket + 1));
    char state = 0;
    pid_t parent = 0;
    pid_t group = 0;
    pid_t its_session = 0;
    if (rest >> state >> parent >> group >> its_session && its_session == session) {
      found.push_back({pid, state == 'Z' || state == 'X'});
    }
  }
  return found;
}

Result<Job> Job::start(const JobCommand& command) {
  TROUPE_CHECK(!command.argv.empty());
  const auto failed = [](const char* what) {
    return fail(ErrorCode::kIo, std::string(what) + ": " + std::strerror(errno));
  };
  Pipe input;
  Pipe output;
  Pipe report;
  if (!input.open() || !output.open() || !report.open()) return failed("cannot create a pipe");

  std::vector<std::string> arguments = command.argv;
  std::vector<std::string> variables = command.environment;
  for (char** variable = environ; *variable != nullptr; ++variable)
    variables.emplace_back(*variable);
  const auto argv = pointers(arguments);
  const auto environment = pointers(variables);

  const pid_t parent = getpid();
  Job job;
  job.pid_ = fork();
  if (job.pid_ < 0) return failed("cannot start a process");
  if (job.pid_ == 0) {
    become(argv.data(), environment.data(), input.read_end, output.write_end, report.write_end,
           parent);
  }
  close(std::exchange(report.write_end, -1));
  int error = 0;
  if (read(report.read_end, &error, sizeof(error)) == sizeof(error)) {
    waitpid(std::exchange(job.pid_, -1), nullptr, 0);
    return fail(error == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo,
                "cannot start " + arguments.front() + ": " + std::strerror(error));
  }
  job.input_ = std::exchange(input.write_end, -1);
  job.output_ = std::exchange(output.read_end, -1);
  fcntl(job.output_, F_SETFL, O_NONBLOCK);
  job.exit_ = static_cast<int>(syscall(SYS_pidfd_open, job.pid_, 0));
  if (job.exit_ < 0) return failed("cannot watch a process (pidfd_open, Linux 5.3)");
  return job;
}

Job::Job(Job&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      exit_(std::exchange(other.exit_, -1)),
      input_(std::exchange(other.input_, -1)),
      output_(std::exchange(other.output_, -1)),
      partial_(std::move(other.partial_)) {}

Job& Job::operator=(Job&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(exit_, other.exit_);
  std::swap(input_, other.input_);
  std::swap(output_, other.output_);
  std::swap(partial_, other.partial_);
  return *this;
}

Job::~Job() {
  if (pid_ > 0) {
    kill();
    reap();
  }
  close_all();
}

void Job::close_all() {
  for (int* fd : {&exit_, &input_, &output_}) {
    if (*fd >= 0) close(std::exchange(*fd, -1));
  }
}

Status Job::send_input(const std::string& text) {
  // A pipe takes 64 KiB without a reader. SIGPIPE is ignored in this process.
  const ssize_t n = write(input_, text.data(), text.size());
  close(std::exchange(input_, -1));
  if (n == static_cast<ssize_t>(text.size())) return ok_status();
  return fail(ErrorCode::kIo, std::string("the job does not read its input: ") +
                                  (n < 0 ? std::strerror(errno) : "text too long"));
}

std::vector<std::string> Job::read_lines() {
  char buffer[4096];
  ssize_t n = 0;
  while ((n = read(output_, buffer, sizeof(buffer))) > 0) {
    partial_.append(buffer, static_cast<size_t>(n));
  }
  std::vector<std::string> lines;
  size_t begin = 0;
  for (size_t end = 0; (end = partial_.find('\n', begin)) != std::string::npos; begin = end + 1) {
    if (end > begin) lines.push_back(partial_.substr(begin, end - begin));
  }
  partial_.erase(0, begin);
  const bool ended = n == 0;
  if ((ended || partial_.size() > (1U << 16)) && !partial_.empty()) {
    lines.push_back(std::exchange(partial_, {}));
  }
  if (ended) close(std::exchange(output_, -1));
  return lines;
}

void Job::kill() {
  if (pid_ <= 0) return;
  // mpirun first: it can start nothing afterwards. Its pid stays ours until it is reaped, so the
  // session number cannot come to mean another session meanwhile.
  ::kill(pid_, SIGKILL);
  for (int i = 0; i < 200; ++i) {
    bool clean = true;
    for (const auto& process : processes_of_session(pid_)) {
      if (process.pid == pid_ || process.ended) continue;
      ::kill(process.pid, SIGKILL);
      clean = false;
    }
    if (clean) return;
    usleep(5'000);
  }
}

std::string Job::reap() {
  kill();
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  // Ranks that mpirun left unreaped are children of this process where it is a subreaper.
  // One whose first thread has ended cannot be reaped before its others have: they are about to.
  for (const auto& process : processes_of_session(std::exchange(pid_, -1))) {
    waitpid(process.pid, nullptr, process.ended ? 0 : WNOHANG);
  }
  if (WIFSIGNALED(status)) return "mpirun was ended by signal " + std::to_string(WTERMSIG(status));
  return "mpirun ended with exit code " + std::to_string(WEXITSTATUS(status));
}

}  // namespace troupe
