#include "actors/router/replay.h"

#include "gpu/model/mapped_file.h"
#include "launch/commands.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>

namespace troupe {

int replay(const ReplayCommand& command) {
  const auto file = MappedFile::open(command.log);
  if (!file) {
    std::fprintf(stderr, "error: %s\n", file.error().message.c_str());
    return kExitStart;
  }
  const std::string_view bytes(reinterpret_cast<const char*>(file->bytes().data()),
                               file->bytes().size());
  const auto from = static_cast<uint64_t>(command.from);
  const auto to = from + static_cast<uint64_t>(command.count);
  const auto report =
      replay(bytes, command.log, command.partial, [&](const ReplayedDecision& decision) {
        if (decision.index < from || decision.index >= to) return;
        std::fputs(describe(decision).c_str(), stdout);
      });
  if (!report) {
    std::fprintf(stderr, "error: %s\n", report.error().message.c_str());
    return kExitStart;
  }
  std::printf("%" PRIu64 " requests, %" PRIu64 " events, %" PRIu64 " decisions: %" PRIu64
              " differ\n",
              report->requests, report->events, report->decisions, report->differing);
  std::printf("%zu bytes for %" PRIu64 " computed tokens: %.2f bytes each\n", bytes.size(),
              report->computed_tokens,
              static_cast<double>(bytes.size()) /
                  static_cast<double>(std::max<uint64_t>(report->computed_tokens, 1)));
  if (report->differing > 0) {
    std::printf("the first difference is decision %" PRIu64 "; compare --from %" PRIu64
                " --count 1 of both programs\n",
                report->first_difference, report->first_difference);
  }
  if (report->diverged) {
    std::printf("after decision %" PRIu64 " the recorded results fit no more\n",
                report->diverged_at);
  }
  return report->differing == 0 ? kExitOk : kExitFailed;
}

}  // namespace troupe
