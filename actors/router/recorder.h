#pragma once

#include "actors/router/log_format.h"
#include "actors/router/router.h"
#include "gpu/base/result.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace troupe {

/// Writes what happens to a Router and a digest of what it decides, so that replay() can do it all
/// again. Call every function beside the Router's of the same name. Holds the prompts: the file is
/// readable by its owner only. When the file reaches its limit or cannot be written, the recorder
/// stops, says so once and ignores everything from then on. Reports of ranks other than 0 decide
/// nothing and are left out, so a log is that of one rank a replica. One thread.
class Recorder {
 public:
  /// Creates or empties `path`. `on_stop` is told why the recorder stopped early. kIo.
  static Result<std::unique_ptr<Recorder>> open(const std::string& path, int64_t limit_bytes,
                                                const RouterLimits& limits,
                                                std::function<void(const std::string&)> on_stop);
  ~Recorder();
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  void submit(const TokenizedRequest& request, Micros now);
  void cancel(RequestId id, Micros now);
  void finish(RequestId id, Micros now);
  void replica_ready(const ReplicaInfo& info, uint64_t epoch, Micros now);
  void replica_lost(uint64_t job, Micros now);
  void apply(uint64_t job, int32_t rank, const StepResult& result, Micros now);
  void tick(Micros now);
  void drain();
  void reset_prefix_cache();
  void planned(const Decision& decision, Micros now);

  [[nodiscard]] bool active() const { return file_ >= 0; }
  [[nodiscard]] int64_t bytes() const {
    return written_ + static_cast<int64_t>(out_.text().size());
  }

 private:
  struct Job {
    uint64_t number = 0;  // in order of appearance
    uint64_t epoch = 0;
    uint64_t last_step = 0;
    std::map<uint64_t, uint64_t> early;  // step -> digest of ranks that report before rank 0
  };

  Recorder(int file, std::string path, int64_t limit, std::function<void(const std::string&)> stop);
  void begin(log::Kind kind, uint8_t flags, Micros now);
  void end_record();
  void flush();
  void stop(const std::string& why);
  bool close();

  int file_ = -1;
  std::string path_;
  int64_t limit_ = 0;
  std::function<void(const std::string&)> on_stop_;
  log::Writer out_;    // whole records that are not in the file yet
  size_t record_ = 0;  // where the newest record begins in out_
  int64_t written_ = 0;
  Micros last_ = 0;  // time of the last record
  Micros flushed_ = 0;
  std::map<uint64_t, Job> jobs_;
  uint64_t n_jobs_ = 0;
  uint64_t last_job_ = 0;  // of the last apply
};

}  // namespace troupe
