#pragma once

#include "actors/messages.h"
#include "actors/router/replica.h"
#include "gpu/base/result.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace troupe {

/// Which ranks belong to which job, and when a job is complete. Part of the router actor.
class Roster {
 public:
  /// The gateway's own model shape and program version; ranks must bring the same.
  Roster(std::string model, std::string version);

  /// Takes a rank in. Refused when it does not match the gateway or its siblings. Value: the
  /// replica, when this was its last missing rank (n_ranks > 0), else an empty one.
  Result<ReplicaInfo> enlist(const RankJoin& join, const RankHandle& handle);

  /// The job of a rank actor, 0 if unknown.
  [[nodiscard]] uint64_t job_of(const caf::actor_addr& rank) const;
  /// Ranks of a job, by rank number; the missing ones are null handles.
  [[nodiscard]] const std::vector<RankHandle>& ranks(uint64_t job) const;
  [[nodiscard]] std::vector<uint64_t> jobs() const;
  void remove(uint64_t job);

 private:
  struct Job {
    ReplicaInfo info;
    int32_t present = 0;
    std::vector<RankHandle> ranks;
  };
  std::string model_;
  std::string version_;
  std::map<uint64_t, Job> jobs_;
  std::vector<RankHandle> nobody_;
};

}  // namespace troupe
