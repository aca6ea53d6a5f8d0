#include "gpu/executor.h"
#ifdef TROUPE_WITH_CUDA
#include "launch/bench_ops.h"
#include "launch/bench_step.h"
#include "launch/mpi_session.h"
#include "nccl/communicators.h"
#endif
#include "launch/commands.h"
#include "launch/placement.h"

#include <csignal>
#include <cstdio>
#include <exception>
#include <string_view>
#include <variant>

namespace {

#ifdef TROUPE_WITH_CUDA
/// One rank, or those of the mpirun job that started this process.
int bench_step_ranks(int argc, char** argv) {
  using namespace troupe;
  if (read_environment().mpi_size < 2) {
    const auto communicator = make_single_communicator();
    return bench_step(argc, argv, *communicator, 0, read_recorded_loads);
  }
  const auto session = MpiSession::start();
  int code = kExitStart;
  if (!session) {
    std::fprintf(stderr, "error: %s\n", session.error().message.c_str());
  } else if (const int32_t gpus = gpu_count(); gpus < session->local_size()) {
    // All ranks of this host see it; one says it.
    if (session->local_rank() == 0 && gpus == 0)
      std::fprintf(stderr, "error: %s\n", gpu_problem().c_str());
    else if (session->local_rank() == 0)
      std::fprintf(stderr,
                   "error: %d ranks on this host need as many GPUs, it has %d; start it with "
                   "mpirun -n %d\n",
                   session->local_size(), gpus, gpus);
    if (session->local_size() == session->size()) return kExitStart;
  } else {
    try {
      const auto communicator =
          make_nccl_communicator(make_mpi_communicator(), session->local_rank());
      code = bench_step(argc, argv, *communicator, session->local_rank(), read_recorded_loads);
    } catch (const std::exception& e) {  // what a rank needs before it can compute
      std::fprintf(stderr, "error: rank %d: %s\n", session->rank(), e.what());
    }
  }
  if (code != kExitOk) MpiSession::abort(code);  // the others may wait for this rank
  return code;
}
#endif

int run(const troupe::Options& options) {
  using namespace troupe;
  if (const auto* command = std::get_if<ServeCommand>(&options.command)) {
    // Asking for GPUs starts threads of the driver; they must not take the signals that serve()
    // waits for.
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    pthread_sigmask(SIG_BLOCK, &stop, nullptr);
    const int32_t gpus = command->shape.device == "cpu" ? 0 : gpu_count();
    const bool in_vain = command->shape.device == "cuda" && gpus == 0;
    const auto placed = place(*command, gpus, in_vain ? gpu_problem() : "");
    if (!placed) {
      std::fprintf(stderr, "error: %s\n", placed.error().message.c_str());
      return kExitStart;
    }
    return options.environment.mpi_size > 0 ? serve_hosted(*placed, options)
                                            : serve(*placed, options);
  }
  if (const auto* command = std::get_if<RankCommand>(&options.command)) {
    return rank(*command, options);
  }
  if (const auto* command = std::get_if<ChatCommand>(&options.command)) return chat(*command);
  if (const auto* command = std::get_if<SimulateCommand>(&options.command)) {
    return simulate(*command);
  }
  if (const auto* command = std::get_if<ReplayCommand>(&options.command)) return replay(*command);
  if (const auto* command = std::get_if<BenchServeCommand>(&options.command)) {
    return bench_serve(*command);
  }
  return doctor(std::get<DoctorCommand>(options.command), options);
}

}  // namespace

int main(int argc, char** argv) {
  // Commands that have options of their own: bench programs that also stand alone.
  const std::string_view bench =
      argc > 2 && std::string_view(argv[1]) == "bench" ? argv[2] : std::string_view();
  if (bench == "step" || bench == "ops") {
#ifdef TROUPE_WITH_CUDA
    if (bench == "step") return bench_step_ranks(argc - 2, argv + 2);
    const troupe::Environment environment = troupe::read_environment();
    if (environment.mpi_size < 2) return troupe::bench_ops(argc - 2, argv + 2);
    if (environment.mpi_rank == 0)
      std::fprintf(stderr,
                   "error: `bench ops` measures one GPU: start it without mpirun; --tp N "
                   "gives one rank's share\n");
    return troupe::kExitStart;
#else
    std::fprintf(stderr, "error: `bench %s` needs a build with CUDA: cmake --preset cuda\n",
                 argv[2]);
    return troupe::kExitStart;
#endif
  }
  const auto parsed = troupe::parse_options(argc, argv, troupe::read_environment());
  if (const auto* leave = std::get_if<troupe::EarlyExit>(&parsed)) {
    std::fputs(leave->out.c_str(), stdout);
    if (!leave->err.empty()) std::fprintf(stderr, "error: %s\n", leave->err.c_str());
    return leave->code;
  }
  return run(std::get<troupe::Options>(parsed));
}
