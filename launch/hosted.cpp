#include "actors/node.h"
#include "gpu/model/checkpoint.h"
#include "launch/commands.h"
#include "launch/job.h"
#include "launch/log.h"
#include "launch/run_directory.h"
#include "launch/service.h"

#include <poll.h>
#include <spdlog/logger.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <chrono>
#include <csignal>
#include <thread>

namespace troupe {
namespace {

/// A rank beside process 0: gets the join information through MPI.
int be_rank(const Options& options, const MpiSession& session, spdlog::logger& logger) {
  std::string text;
  session.broadcast(text);
  const auto info = parse_join_info(text, "the information from process 0");
  const Status status = info ? join_service(*info, options, session, logger) : Status(info.error());
  if (status.ok()) return kExitOk;
  logger.error("error: {}", status.error().message);
  MpiSession::abort(kExitStart);
}

/// Process 0. Never returns after a failure: the other ranks would wait for it.
int be_gateway(const ServeCommand& command, const Options& options, const MpiSession& session,
               const RunDirectory& directory, const Signals& signals, spdlog::logger& logger) {
  const auto begin = std::chrono::steady_clock::now();
  const auto failed = [&logger](const Error& error) -> int {
    logger.error("error: {}", error.message);
    MpiSession::abort(kExitStart);
  };
  logger.info("{}", options.summary);
  auto checkpoint = Checkpoint::open(command.model);
  if (!checkpoint) return failed(checkpoint.error());
  const auto fits = check_against_model(command, session.size(), **checkpoint);
  if (!fits.ok()) return failed(fits.error());
  const auto tls = make_tls_material();
  if (!tls) return failed(tls.error());
  auto files = TlsMemoryFiles::create(*tls);
  if (!files) return failed(files.error());
  const bool one_host = session.local_size() == session.size();
  char name[256] = "localhost";
  gethostname(name, sizeof(name) - 1);
  const std::string rank_host =
      !command.rank_host.empty() ? command.rank_host : (one_host ? "127.0.0.1" : name);

  const int ready = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  auto service = Service::start(
      **checkpoint, command, files->paths(), rank_host,
      [ready, &logger](const ReplicaEvent& event) {
        const uint64_t one = 1;
        if (event.kind == ReplicaEvent::Kind::kLost) {
          logger.error("a replica is lost: {}", event.reason);
        } else if (write(ready, &one, sizeof(one)) < 0) {
          logger.error("cannot signal readiness");
        }
      },
      logger);
  if (!service) return failed(service.error());
  const JoinInfo info = join_info_for(*service, command, *tls, rank_host);
  const std::string join_file =
      command.join_file.empty() ? directory.path() + "/join.json" : command.join_file;
  const auto written = write_private_file(join_file, to_json(info));
  if (!written.ok()) return failed(written.error());
  logger.info("to add a replica: mpirun -n N troupe rank --join {}", join_file);
  std::string text = to_json(info);
  session.broadcast(text);

  std::thread rank_zero([&] {
    const Status status = join_service(info, options, session, logger);
    if (status.ok()) return;
    service->end();
    failed(status.error());
  });
  std::optional<int> signal_number;
  while (!signal_number) {
    pollfd fds[2] = {{signals.fd(), POLLIN, 0}, {ready, POLLIN, 0}};
    if (poll(fds, 2, -1) < 0) continue;
    uint64_t count = 0;
    if (read(ready, &count, sizeof(count)) > 0) {
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
      logger.info("ready at {} after {:.2f} s", service->url(), seconds.count());
    }
    signal_number = signals.take();
  }
  logger.info("signal {}", *signal_number);
  if (const auto second = service->drain(command.drain_timeout, signals, logger)) {
    logger.warn("signal {}: leaving at once", *second);
    service->end();
    MpiSession::abort(128 + *second);
  }
  service->node().dismiss(0);
  rank_zero.join();
  if (!command.join_file.empty()) unlink(join_file.c_str());
  logger.info("stopped");
  return kExitOk;
}

}  // namespace

int serve_hosted(const ServeCommand& command, const Options& options) {
  const bool gateway = options.environment.mpi_rank == 0;
  const auto logger = make_logger(
      options.log, gateway ? "serve" : "rank " + std::to_string(options.environment.mpi_rank));
  if (!die_with_parent()) return kExitFailed;
  // Before MPI starts threads. Every process takes part so that Ctrl-C on mpirun reaches only
  // process 0, which drains and then dismisses the others.
  const Signals signals;
  std::optional<RunDirectory> directory;
  if (gateway) {
    auto created = RunDirectory::create(options.environment);
    if (!created) {
      logger->error("error: {}", created.error().message);
      return kExitStart;
    }
    directory.emplace(std::move(*created));
  }
  auto session = MpiSession::start();
  if (!session) {
    logger->error("error: {}", session.error().message);
    return kExitStart;
  }
  if (!gateway) return be_rank(options, *session, *logger);
  return be_gateway(command, options, *session, *directory, signals, *logger);
}

}  // namespace troupe
