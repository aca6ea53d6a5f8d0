#include "actors/roster.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace troupe {
namespace {

constexpr int32_t kMaxRanks = 1024;

}  // namespace

Roster::Roster(std::string model, std::string version)
    : model_(std::move(model)), version_(std::move(version)) {}

Result<ReplicaInfo> Roster::enlist(const RankJoin& join, const RankHandle& handle) {
  if (join.version != version_) {
    return fail(ErrorCode::kInvalidArgument, "this rank is troupe " + join.version +
                                                 ", the gateway is " + version_ +
                                                 ": install the same version");
  }
  if (join.model != model_) {
    return fail(ErrorCode::kInvalidArgument, "this rank has another model (" + join.model +
                                                 ") than the gateway (" + model_ +
                                                 "): give both the same file");
  }
  if (join.job == 0 || join.n_ranks < 1 || join.n_ranks > kMaxRanks || join.rank < 0 ||
      join.rank >= join.n_ranks || join.n_slots < 1 || join.max_rows < 1 ||
      join.max_step_tokens < 1) {
    return fail(ErrorCode::kInvalidArgument, "the rank's numbers are out of range");
  }
  Job& job = jobs_[join.job];
  if (job.ranks.empty()) {
    job.ranks.resize(static_cast<size_t>(join.n_ranks));
    job.info = {join.job, join.n_ranks, join.n_slots, join.max_rows, join.max_step_tokens};
  }
  if (job.info.n_ranks != join.n_ranks || job.ranks[static_cast<size_t>(join.rank)]) {
    return fail(ErrorCode::kInvalidArgument,
                "rank " + std::to_string(join.rank) + " of this job is there already");
  }
  job.ranks[static_cast<size_t>(join.rank)] = handle;
  job.info.n_slots = std::min(job.info.n_slots, join.n_slots);
  job.info.max_rows = std::min(job.info.max_rows, join.max_rows);
  job.info.max_step_tokens = std::min(job.info.max_step_tokens, join.max_step_tokens);
  return ++job.present == join.n_ranks ? job.info : ReplicaInfo{};
}

uint64_t Roster::job_of(const caf::actor_addr& rank) const {
  for (const auto& [id, job] : jobs_) {
    for (const RankHandle& handle : job.ranks) {
      if (handle && handle.address() == rank) return id;
    }
  }
  return 0;
}

const std::vector<RankHandle>& Roster::ranks(uint64_t job) const {
  const auto it = jobs_.find(job);
  return it == jobs_.end() ? nobody_ : it->second.ranks;
}

std::vector<uint64_t> Roster::jobs() const {
  std::vector<uint64_t> all;
  for (const auto& [id, job] : jobs_) all.push_back(id);
  return all;
}

void Roster::remove(uint64_t job) { jobs_.erase(job); }

}  // namespace troupe
