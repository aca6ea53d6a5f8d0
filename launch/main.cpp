#include "gpu/executor.h"
#include "launch/commands.h"
#include "launch/placement.h"

#include <cstdio>
#include <variant>

namespace {

int run(const troupe::Options& options) {
  using namespace troupe;
  if (const auto* command = std::get_if<ServeCommand>(&options.command)) {
    const auto placed = place(*command, command->shape.device == "cpu" ? 0 : gpu_count());
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
  return doctor(std::get<DoctorCommand>(options.command), options);
}

}  // namespace

int main(int argc, char** argv) {
  const auto parsed = troupe::parse_options(argc, argv, troupe::read_environment());
  if (const auto* leave = std::get_if<troupe::EarlyExit>(&parsed)) {
    std::fputs(leave->out.c_str(), stdout);
    if (!leave->err.empty()) std::fprintf(stderr, "error: %s\n", leave->err.c_str());
    return leave->code;
  }
  return run(std::get<troupe::Options>(parsed));
}
