// The whole engine inside a program of your own, without HTTP or mpirun: two ranks on threads, one
// conversation streamed to standard output.
//   embed MODEL [QUESTION]
#include "actors/node.h"
#include "gpu/model/checkpoint.h"
#include "nccl/communicators.h"

#include <cstdio>
#include <future>
#include <utility>

using namespace troupe;

namespace {

int fail_with(const Error& error) {
  std::fprintf(stderr, "%s\n", error.message.c_str());
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return fail_with({ErrorCode::kInvalidArgument, "usage: embed MODEL", {}});
  auto checkpoint = Checkpoint::open(argv[1]);
  if (!checkpoint) return fail_with(checkpoint.error());

  std::promise<EngineEvent> finished;  // outlives the engine, whose thread fulfils it

  // No TLS files, so nothing listens: this engine has only local ranks.
  auto engine = GatewayNode::start(**checkpoint, GatewayOptions{}, [](const ReplicaEvent&) {});
  if (!engine) return fail_with(engine.error());
  ExecutorOptions options;  // of one rank
  options.n_threads = 1;
  options.n_slots = 2048;
  const Status added =
      (*engine)->add_local_replica(**checkpoint, options, make_thread_communicators(2));
  if (!added) return fail_with(added.error());

  GenerateRequest request;
  request.prompt =
      std::vector<ChatMessage>{{"user", argc > 2 ? argv[2] : "What does a conductor do?", {}}};
  request.sampling.temperature = 0;
  request.max_tokens = 64;

  // The sink runs on a thread of the engine and must not block. Its last call is kFinished.
  (*engine)->submit(std::move(request), [&finished](EngineEvent&& event) {
    std::fputs(event.text.c_str(), stdout);
    std::fflush(stdout);
    if (event.kind == EngineEvent::Kind::kFinished) finished.set_value(std::move(event));
  });
  const EngineEvent end = finished.get_future().get();
  if (end.reason == FinishReason::kError) return fail_with(end.error);
  std::printf("\n[%d tokens in, %d out]\n", end.usage.prompt_tokens, end.usage.completion_tokens);
  return 0;
}
