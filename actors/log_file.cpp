#include "actors/log_file.h"

#include <fcntl.h>
#include <unistd.h>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstring>
#include <deque>
#include <mutex>
#include <string_view>
#include <thread>
#include <utility>

namespace troupe {

struct LogFile::State {
  LogFileOptions options;
  int file = -1;

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::string> waiting;
  int64_t waiting_bytes = 0;  // what is being written included
  bool over = false;          // no more is taken
  bool done = false;          // the file is closed

  std::mutex telling;
  std::function<void(const std::string&)> on_stop;  // empty once it was called

  void tell(const std::string& why) {
    const std::lock_guard lock(telling);
    if (const auto once = std::exchange(on_stop, nullptr)) {
      once("recording to " + options.path + " has stopped: " + why);
    }
  }
};

namespace {

/// 0, or the errno of the write that failed.
int write_all(int file, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(file, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return 0;
}

}  // namespace

Result<std::unique_ptr<LogFile>> LogFile::open(LogFileOptions options,
                                               std::function<void(const std::string&)> on_stop) {
  auto state = std::make_shared<State>();
  state->file = ::open(options.path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (state->file < 0) {
    return fail(ErrorCode::kIo, "cannot record to " + options.path + ": " + std::strerror(errno),
                "--record");
  }
  state->options = std::move(options);
  state->on_stop = std::move(on_stop);
  // Without signals: a file at its size limit (SIGXFSZ) and a pipe that nobody reads (SIGPIPE) are
  // errors of write() then, and the signals of the process go to those who wait for them.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread([state] { run(*state); }).detach();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return std::unique_ptr<LogFile>(new LogFile(std::move(state)));
}

LogFile::~LogFile() {
  State& s = *state_;
  {
    std::unique_lock lock(s.mutex);
    s.over = true;
    s.changed.notify_all();
    s.changed.wait_for(lock, s.options.patience, [&s] { return s.done; });
  }
  const std::lock_guard lock(s.telling);
  s.on_stop = nullptr;  // whoever listens may be gone after this
}

bool LogFile::put(std::string& records) {
  State& s = *state_;
  const auto size = static_cast<int64_t>(records.size());
  {
    std::unique_lock lock(s.mutex);
    const auto fits = [&] {
      return s.over || s.waiting_bytes == 0 || s.waiting_bytes + size <= s.options.max_waiting;
    };
    if (s.options.wait) s.changed.wait(lock, fits);
    if (fits()) {
      if (!s.over) {
        s.waiting_bytes += size;
        s.waiting.push_back(records);
      }
      records.clear();
      s.changed.notify_all();
      return !s.over;
    }
  }
  records.clear();
  stop("the disk is too slow, more than " + std::to_string(s.options.max_waiting >> 10) +
       " KB would wait for it");
  return false;
}

void LogFile::stop(const std::string& why) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->over = true;
    state_->changed.notify_all();
  }
  state_->tell(why);
}

// Writes until the log is over and nothing waits, or a write fails.
void LogFile::run(State& s) {
  std::unique_lock lock(s.mutex);
  int error = 0;
  int64_t written = 0;
  while (error == 0) {
    s.changed.wait(lock, [&s] { return s.over || !s.waiting.empty(); });
    if (s.waiting.empty()) break;
    const std::string batch = std::move(s.waiting.front());
    s.waiting.pop_front();
    lock.unlock();
    error = write_all(s.file, batch);
    lock.lock();
    const auto size = static_cast<int64_t>(batch.size());
    if (error == 0) written += size;
    s.waiting_bytes -= size;
    s.changed.notify_all();
  }
  s.over = true;
  s.waiting.clear();
  s.changed.notify_all();
  lock.unlock();
  // What a failed write has left goes, which mostly makes room for the trailer. What is no regular
  // file cannot be cut: replay will find the cut record.
  if (error == 0) {
    error = write_all(s.file, s.options.trailer);
  } else if (ftruncate(s.file, written) == 0 && lseek(s.file, written, SEEK_SET) == written) {
    write_all(s.file, s.options.trailer);
  }
  ::close(s.file);
  if (error != 0) s.tell(std::strerror(error));
  lock.lock();
  s.done = true;
  s.changed.notify_all();
}

Result<std::unique_ptr<Recorder>> record_to_file(const std::string& path, int64_t limit,
                                                 const RouterLimits& limits, bool wait,
                                                 std::function<void(const std::string&)> on_stop) {
  LogFileOptions options;
  options.path = path;
  options.trailer = Recorder::trailer();
  options.wait = wait;
  auto file = LogFile::open(std::move(options), std::move(on_stop));
  if (!file) return file.error();
  return std::make_unique<Recorder>(std::move(*file), limit, limits);
}

}  // namespace troupe
