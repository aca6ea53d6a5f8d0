#pragma once

#include "gpu/base/result.h"
#include "launch/exit_code.h"
#include "launch/join_info.h"
#include "launch/mpi_session.h"
#include "launch/options.h"

#include <cstdint>

/// The commands of main(); each returns the exit code of the process.
namespace spdlog {
class logger;
}

namespace troupe {

int serve(const ServeCommand& command, const Options& options);
/// `mpirun -n N troupe serve`: process 0 is gateway and rank 0, nothing is restarted.
int serve_hosted(const ServeCommand& command, const Options& options);
int rank(const RankCommand& command, const Options& options);
int chat(const ChatCommand& command);
int simulate(const SimulateCommand& command);
int replay(const ReplayCommand& command);
int bench_serve(const BenchServeCommand& bench);
int doctor(const DoctorCommand& command, const Options& options);

/// Joins the service of `info` as this process's rank of the job and serves until dismissed.
/// Collective among the ranks of the job. Errors carry a sentence for the log.
[[nodiscard]] Status join_service(const JoinInfo& info, const Options& options,
                                  const MpiSession& session, spdlog::logger& logger);

}  // namespace troupe
