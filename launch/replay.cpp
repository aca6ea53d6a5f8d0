#include "actors/router/replay.h"

#include "gpu/model/mapped_file.h"
#include "launch/commands.h"
#include "launch/job.h"

#include <poll.h>
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <limits>
#include <optional>
#include <utility>

namespace troupe {
namespace {

int failed(const Error& error) {
  std::fprintf(stderr, "error: %s\n", error.message.c_str());
  return kExitStart;
}

/// Another build of this program that replays the same log: its decisions, in words, one by one.
class OtherBuild {
 public:
  static Result<OtherBuild> start(const ReplayCommand& command) {
    JobCommand job;
    job.argv = {command.against,
                "replay",
                command.log,
                "--from",
                "0",
                "--count",
                std::to_string(std::numeric_limits<int64_t>::max() / 8)};
    if (command.partial) job.argv.emplace_back("--partial");
    auto started = Job::start(job);
    if (!started) {
      return fail(ErrorCode::kNotFound,
                  "cannot run " + command.against + ": " + started.error().message, "--against");
    }
    return OtherBuild(std::move(*started));
  }

  /// As describe(); empty after the last one.
  std::string next() {
    std::string text;
    while (const auto line = next_line()) {
      const bool head = line->starts_with("decision ");
      if (!head && (text.empty() || !line->starts_with("  "))) {
        last_words_ = *line;
        if (text.empty()) continue;
        break;
      }
      if (head && !text.empty()) {
        lines_.push_front(*line);
        break;
      }
      text += *line + "\n";
    }
    return text;
  }
  /// The newest line that belongs to no decision: its summary, or why it failed.
  [[nodiscard]] const std::string& last_words() const { return last_words_; }

 private:
  explicit OtherBuild(Job job) : job_(std::move(job)) {}

  std::optional<std::string> next_line() {
    while (lines_.empty() && job_.output_fd() >= 0) {
      pollfd output{job_.output_fd(), POLLIN, 0};
      if (poll(&output, 1, -1) < 0) continue;
      for (std::string& line : job_.read_lines()) lines_.push_back(std::move(line));
    }
    if (lines_.empty()) return std::nullopt;
    std::string line = std::move(lines_.front());
    lines_.pop_front();
    return line;
  }

  Job job_;
  std::deque<std::string> lines_;
  std::string last_words_;
};

/// Prints the lines of `text` that `other` does not have.
void print_own_lines(const char* mark, const std::string& text, const std::string& other) {
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at) + 1;
    const std::string line = text.substr(at, end - at);
    if (("\n" + other).find("\n" + line) == std::string::npos)
      std::printf("%s %s", mark, line.c_str());
    at = end;
  }
}

/// Compares what this build decides with what the other does, until they part.
class Comparison {
 public:
  explicit Comparison(OtherBuild other) : other_(std::move(other)) {}

  void see(const ReplayedDecision& decision) {
    if (differs_) return;
    const std::string here = describe(decision);
    const std::string there = other_.next();
    ++compared_;
    if (here == there) return;
    differs_ = true;
    std::printf("the other build decides differently (- here, + there):\n");
    print_own_lines("-", here, there);
    if (there.empty()) std::printf("+ nothing: %s\n", other_.last_words().c_str());
    print_own_lines("+", there, here);
  }
  /// After the last decision of this build. True when all were the same.
  bool end() {
    if (differs_) return false;
    if (const std::string more = other_.next(); !more.empty()) {
      std::printf("the other build goes on where this one has ended:\n%s", more.c_str());
      return false;
    }
    std::printf("the other build takes the same %" PRIu64 " decisions\n", compared_);
    return true;
  }

 private:
  OtherBuild other_;
  bool differs_ = false;
  uint64_t compared_ = 0;
};

void print(const ReplayReport& report, size_t bytes) {
  std::printf("%" PRIu64 " requests, %" PRIu64 " events, %" PRIu64 " decisions: %" PRIu64
              " differ\n",
              report.requests, report.events, report.decisions, report.differing);
  std::printf("%zu bytes for %" PRIu64 " computed tokens: %.2f bytes each\n", bytes,
              report.computed_tokens,
              static_cast<double>(bytes) /
                  static_cast<double>(std::max<uint64_t>(report.computed_tokens, 1)));
  if (report.differing > 0) {
    std::printf("the first difference is decision %" PRIu64 "; --from %" PRIu64
                " --count 1 prints it, --against BUILD beside another's\n",
                report.first_difference, report.first_difference);
  }
  if (report.diverged) {
    std::printf("after decision %" PRIu64 " the recorded results fit no more\n",
                report.diverged_at);
  }
}

}  // namespace

int replay(const ReplayCommand& command) {
  const auto file = MappedFile::open(command.log);
  if (!file) return failed(file.error());
  const std::string_view bytes(reinterpret_cast<const char*>(file->bytes().data()),
                               file->bytes().size());
  std::optional<Comparison> comparison;
  if (!command.against.empty()) {
    auto other = OtherBuild::start(command);
    if (!other) return failed(other.error());
    comparison.emplace(std::move(*other));
  }
  const auto from = static_cast<uint64_t>(command.from);
  const auto to = from + static_cast<uint64_t>(command.count);
  const auto report =
      replay(bytes, command.log, command.partial, [&](const ReplayedDecision& decision) {
        if (comparison) comparison->see(decision);
        if (decision.index < from || decision.index >= to) return;
        std::fputs(describe(decision).c_str(), stdout);
      });
  if (!report) return failed(report.error());
  print(*report, bytes.size());
  // Against another build that build is the measure, not the one that recorded.
  const bool same = comparison ? comparison->end() : report->differing == 0;
  return same ? kExitOk : kExitFailed;
}

}  // namespace troupe
