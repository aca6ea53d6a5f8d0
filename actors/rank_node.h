#pragma once

#include "actors/messages.h"
#include "actors/node.h"
#include "actors/rank_worker.h"

#include <functional>
#include <memory>
#include <string>

namespace troupe {

/// Pieces of a rank that run_rank() and the gateway's local replicas share.
RankJoin make_join(const Checkpoint& checkpoint, const RankOptions& options,
                   const Communicator& communicator, const RankWorker& worker);

/// A worker whose results and failures go to the router. `failed` is told as well, may be null.
std::shared_ptr<RankWorker> make_rank_worker(const RouterPort& router, uint64_t job, int32_t rank,
                                             std::function<void(const std::string&)> failed);

}  // namespace troupe
