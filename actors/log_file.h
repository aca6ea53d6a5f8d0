#pragma once

#include "actors/router/log_sink.h"
#include "actors/router/recorder.h"
#include "gpu/base/result.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace troupe {

struct LogFileOptions {
  std::string path;     // created, or emptied; readable by its owner only
  std::string trailer;  // written last, however the log ends
  bool wait = false;    // put() waits for a slow disk; false: the log ends when too much waits
  int64_t max_waiting = int64_t{16} << 20;   // bytes
  std::chrono::milliseconds patience{5000};  // that the destructor gives a disk that hangs
};

/// A log in a file, which a thread of its own writes: put() never waits for a disk unless it is
/// asked to. When the disk is full or too slow, the file keeps what it has, gets its trailer if
/// that can be written, and `on_stop` is told once, on the writing or the putting thread.
class LogFile final : public LogSink {
 public:
  /// kIo when the file cannot be opened.
  static Result<std::unique_ptr<LogFile>> open(LogFileOptions options,
                                               std::function<void(const std::string&)> on_stop);
  /// Writes what waits. A disk that hangs longer than the patience is left to itself.
  ~LogFile() override;

  bool put(std::string& records) override;
  void stop(const std::string& why) override;

 private:
  struct State;
  explicit LogFile(std::shared_ptr<State> state) : state_(std::move(state)) {}
  static void run(State& state);

  std::shared_ptr<State> state_;  // shared with the writing thread, which may outlive this
};

/// A recorder that writes to `path`, at most `limit` bytes. With `wait`, the router is slowed down
/// rather than its log cut: for simulations. kIo.
Result<std::unique_ptr<Recorder>> record_to_file(const std::string& path, int64_t limit,
                                                 const RouterLimits& limits, bool wait,
                                                 std::function<void(const std::string&)> on_stop);

}  // namespace troupe
