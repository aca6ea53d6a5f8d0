#pragma once

#include "actors/router/log_format.h"
#include "actors/router/router.h"
#include "gpu/base/result.h"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_set>

namespace troupe {

/// One record of a log. `kind` says which of the fields mean something.
struct LogEvent {
  log::Kind kind = log::Kind::kEnd;
  Micros now = 0;
  TokenizedRequest request;  // kSubmit
  RequestId id = 0;          // kCancel, kFinish
  ReplicaInfo replica;       // kReplicaReady
  uint64_t job = 0;          // kReplicaLost, kApply
  StepResult result;         // kApply; epoch as the router gave it
  bool nothing = false;      // kPlan: the decision was empty
  uint32_t digest = 0;       // kPlan: of the decision, if it was not
};

/// Reads a log that may be anything: what it hands out is safe to feed to a Router (no request or
/// replica comes twice, numbers are in range). Every refusal names the offset.
class LogReader {
 public:
  /// `bytes` is borrowed. Refuses what is no log or of another version.
  static Result<LogReader> open(std::string_view bytes, std::string source);

  [[nodiscard]] const RouterLimits& limits() const { return limits_; }
  /// The next record; kEnd once at the end. Refused: an unknown or impossible record, and a log
  /// that just stops.
  Result<LogEvent> next();
  [[nodiscard]] size_t offset() const { return at_; }
  /// The log stops without an end record, inside a record or after one.
  [[nodiscard]] bool cut_short() const { return cut_short_; }

 private:
  LogReader(std::string_view bytes, std::string source)
      : bytes_(bytes), source_(std::move(source)) {}
  [[nodiscard]] Error refuse(size_t at, const std::string& what) const;

  uint8_t byte();
  uint64_t number();
  int64_t integer();
  int32_t integer(int32_t least, int32_t most);
  uint32_t word();
  float real();
  double real64();
  size_t count(size_t least_bytes_each);
  void list(std::vector<int32_t>& out);
  void bad(const char* what);

  void header();
  void submit(LogEvent& event, uint8_t flags);
  void read_sampling(SamplingParams& params, bool seed_only);
  void replica_ready(LogEvent& event);
  void apply(LogEvent& event, uint8_t flags);

  struct Job {
    uint64_t id = 0;
    uint64_t epoch = 0;
    uint64_t last_step = 0;
    bool lost = false;
  };

  std::string_view bytes_;
  std::string source_;
  size_t at_ = 0;
  bool cut_short_ = false;
  const char* problem_ = nullptr;  // the first of the record being read
  RouterLimits limits_;
  Micros last_ = 0;
  std::map<uint64_t, Job> jobs_;            // by number
  std::unordered_set<RequestId> requests_;  // seen so far
  uint64_t n_jobs_ = 0;
  uint64_t last_job_ = 0;
};

}  // namespace troupe
