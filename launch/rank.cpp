#include "actors/node.h"
#include "gpu/base/check.h"
#include "gpu/model/checkpoint.h"
#include "launch/commands.h"
#include "launch/job.h"
#include "launch/log.h"
#include "nccl/communicators.h"

#include <unistd.h>
#include <cstdio>
#include <exception>
#include <new>
#include <system_error>

namespace troupe {
namespace {

/// What the join file leaves open or the command line overrides.
Result<JoinInfo> complete(const std::string& text, const RankCommand& command) {
  auto info = parse_join_info(text, command.join == "-" ? "standard input" : command.join);
  if (!info) return info;
  if (!command.model.empty()) info->model = command.model;
  if (command.threads > 0) info->shape.threads = command.threads;
  if (command.kv_tokens > 0) info->shape.kv_tokens = command.kv_tokens;
  return info;
}

/// For exceptions that nobody catches, in a thread of CAF's for instance: one line, no core dump.
[[noreturn]] void end_in_one_line() {
  std::string what = "an unknown exception";
  try {
    if (const auto exception = std::current_exception()) std::rethrow_exception(exception);
  } catch (const std::bad_alloc&) {
    what = "no memory for this rank; raise its memory limit (ulimit -v) or lower --kv-tokens";
  } catch (const std::system_error& error) {  // a thread that cannot start, in practice
    what = error.what();
    what += "; raise this rank's limits on memory (ulimit -v) and processes (ulimit -u)";
  } catch (const std::exception& exception) {
    what = exception.what();
  }
  std::fprintf(stderr, "error: %s\n", what.c_str());
  _exit(kExitStart);
}

}  // namespace

Status join_service(const JoinInfo& info, const Options& options, const MpiSession& session,
                    spdlog::logger& logger) {
  auto checkpoint = Checkpoint::open(info.model);
  if (!checkpoint) return checkpoint.error();
  auto files = TlsMemoryFiles::create(info.tls);
  if (!files) return files.error();

  std::string job = std::to_string(info.job != 0 ? info.job : random_job());
  session.broadcast(job);
  const int32_t threads =
      threads_per_rank(info.shape.threads, options.environment.cores, session.local_size());
  RankOptions rank_options;
  rank_options.host = info.host;
  rank_options.port = info.port;
  rank_options.tls = files->paths();
  rank_options.job = std::stoull(job);
  rank_options.executor = executor_options(info.shape, threads, options.environment);
  rank_options.executor.device_index = info.first_gpu + session.local_rank();
  logger.debug("joining {}:{} as rank {} of {} with {} threads", info.host, info.port,
               session.rank(), session.size(), threads);
  try {
    auto communicator = session.size() == 1 ? make_single_communicator() : make_mpi_communicator();
#ifdef TROUPE_WITH_CUDA
    if (rank_options.executor.device == DeviceKind::kCuda && session.size() > 1)
      communicator =
          make_nccl_communicator(std::move(communicator), rank_options.executor.device_index);
#endif
    return run_rank(**checkpoint, rank_options, *communicator);
  } catch (const DeviceError& error) {
    return fail(ErrorCode::kInternal, error.what());
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::kOutOfMemory,
                "no memory for this rank; use fewer --kv-tokens or a smaller model");
  }
}

int rank(const RankCommand& command, const Options& options) {
  const auto logger =
      make_logger(options.log, "rank " + std::to_string(options.environment.mpi_rank));
  const auto failed = [&logger](const Error& error) -> int {
    // kCancelled: this rank gave up because of another, whose own error says more.
    if (error.code == ErrorCode::kCancelled) {
      logger->warn(error.message);
    } else {
      logger->error("error: {}", error.message);
    }
    MpiSession::abort(rank_exit_code(error.code));
  };
  std::set_terminate(end_in_one_line);
  if (options.environment.mpi_size > 0 && !die_with_parent()) return kExitFailed;
  auto session = MpiSession::start();
  if (!session) return failed(session.error());

  std::string text;
  if (session->rank() == 0) {
    auto read = read_join_text(command.join);
    if (!read) return failed(read.error());
    text = *read;
  }
  session->broadcast(text);
  const auto info = complete(text, command);
  if (!info) return failed(info.error());
  const Status status = join_service(*info, options, *session, *logger);
  // Peers may be stuck in a collective with this rank: leave at once, mpirun ends them.
  if (!status.ok()) return failed(status.error());
  logger->debug("dismissed");
  return kExitOk;
}

}  // namespace troupe
