// The rank process's node: an executor on its worker thread, joined to the gateway.

#include "actors/rank_node.h"
#include "actors/model_shape.h"
#include "actors/node.h"
#include "actors/rank_actor.h"
#include "actors/report_batch.h"
#include "actors/system_config.h"
#include "gpu/communicator.h"
#include "gpu/executor.h"

#include <caf/actor_system.hpp>
#include <caf/openssl/remote_actor.hpp>
#include <caf/send.hpp>

#include <chrono>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace troupe {
namespace {

constexpr std::chrono::seconds kConnectTimeout{8};

struct Node {
  explicit Node(const TlsFiles& tls) : config(&tls), system(config) {
    close_remote_services(system);
  }
  SystemConfig config;
  caf::actor_system system;
};

/// The gateway's router. CAF answers never where its network actor has died of an exception, for
/// want of memory for instance: then this gives up, and the actor system can no longer be ended.
Result<RouterPort> connect(const std::shared_ptr<Node>& node, const RankOptions& options) {
  const auto failed = [&options](const std::string& why) {
    return fail(ErrorCode::kUnavailable, "cannot join the gateway at " + options.host + ":" +
                                             std::to_string(options.port) + ": " + why);
  };
  std::promise<caf::expected<RouterPort>> promise;
  auto answer = promise.get_future();
  // Shares the node, which must not end before CAF has answered.
  std::thread dial(
      [node, promise = std::move(promise), host = options.host, port = options.port]() mutable {
        promise.set_value(caf::openssl::remote_actor<RouterPort>(node->system, host, port));
      });
  if (answer.wait_for(kConnectTimeout) != std::future_status::ready) {
    dial.detach();
    return failed("no answer; is the gateway there, and has this rank memory?");
  }
  dial.join();
  const auto router = answer.get();
  if (!router) return failed(node->system.render(router.error()));
  return *router;
}

// The first end that anybody reports is the rank's.
class End {
 public:
  void set(Status status) {
    std::call_once(once_, [&] { promise_.set_value(std::move(status)); });
  }
  Status wait() { return promise_.get_future().get(); }  // once

 private:
  std::once_flag once_;
  std::promise<Status> promise_;
};

}  // namespace

RankJoin make_join(const Checkpoint& checkpoint, const RankOptions& options,
                   const Communicator& communicator, const RankWorker& worker) {
  RankJoin join;
  join.job = options.job;
  join.rank = communicator.rank();
  join.n_ranks = communicator.size();
  join.n_slots = worker.n_slots();
  join.max_rows = options.executor.max_rows;
  join.max_step_tokens = options.executor.max_step_tokens;
  join.model = model_shape(checkpoint.config());
  join.version = kVersion;
  return join;
}

std::shared_ptr<RankWorker> make_rank_worker(const RouterPort& router, uint64_t job, int32_t rank,
                                             std::function<void(const std::string&)> failed) {
  RankWorker::Callbacks callbacks;
  callbacks.done = [router, job, rank, batch = ReportBatch(rank)](StepResult&& result,
                                                                  size_t ahead) mutable {
    auto report = batch.add(std::move(result), ahead);
    if (!report.empty()) caf::anon_send(router, job, rank, std::move(report));
  };
  callbacks.failed = [router, job, failed = std::move(failed)](const std::string& what) {
    caf::anon_send(router, failed_atom_v, job, what);
    if (failed) failed(what);
  };
  return std::make_shared<RankWorker>(std::move(callbacks));
}

Status run_rank(const Checkpoint& checkpoint, const RankOptions& options,
                Communicator& communicator) {
  const auto node = std::make_shared<Node>(options.tls);
  const auto router = connect(node, options);
  if (!router) return router.error();
  const auto end = std::make_shared<End>();  // shared by this thread, the actor and the worker
  const auto worker = make_rank_worker(
      *router, options.job, communicator.rank(),
      [end](const std::string& what) { end->set(fail(ErrorCode::kDeviceFailed, what)); });
  const Status built =
      worker->start([&] { return Executor::create(checkpoint, options.executor, communicator); });
  if (!built) return built;
  node->system.spawn<StateActor<RankHandle, RankState>>(
      make_join(checkpoint, options, communicator, *worker), *router, worker,
      [end](Status status) { end->set(std::move(status)); });
  Status status = end->wait();
  communicator.abort();  // siblings may be gone: do not wait for them in a collective
  worker->stop();
  return status;
}

}  // namespace troupe
