#pragma once

#include "actors/router/log_format.h"
#include "actors/router/log_sink.h"
#include "actors/router/router.h"

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace troupe {

/// Writes what happens to a Router and a digest of what it decides, so that replay() can do it all
/// again. Call every function beside the Router's of the same name. Holds the prompts: the log is
/// its owner's alone. When the log reaches its limit or its sink takes no more, the recorder
/// ignores everything from then on. Reports of ranks other than 0 decide nothing and are left out,
/// so a log is that of one rank a replica. One thread.
class Recorder {
 public:
  /// Begins a log of at most `limit_bytes` for a router with these limits.
  Recorder(std::unique_ptr<LogSink> sink, int64_t limit_bytes, const RouterLimits& limits);
  ~Recorder();
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;
  /// What a sink writes at the end of a log: without it, a log was cut short.
  [[nodiscard]] static std::string trailer();

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

  [[nodiscard]] bool active() const { return active_; }

 private:
  struct Job {
    uint64_t number = 0;  // in order of appearance
    uint64_t epoch = 0;
    uint64_t last_step = 0;
    std::map<uint64_t, uint64_t> early;  // step -> digest of ranks that report before rank 0
  };

  void begin(log::Kind kind, uint8_t flags, Micros now);
  void end_record();
  void flush();

  std::unique_ptr<LogSink> sink_;
  int64_t limit_ = 0;
  bool active_ = true;
  log::Writer out_;      // whole records that the sink does not have yet
  size_t record_ = 0;    // where the newest record begins in out_
  int64_t flushed_ = 0;  // bytes that the sink has
  Micros last_ = 0;      // time of the last record
  Micros flushed_at_ = 0;
  std::map<uint64_t, Job> jobs_;
  uint64_t n_jobs_ = 0;
  uint64_t last_job_ = 0;  // of the last apply
};

}  // namespace troupe
