#include "launch/supervisor.h"

#include "gpu/base/check.h"

#include <spdlog/logger.h>

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <filesystem>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>

namespace troupe {
namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;

uint64_t random_job() {
  std::random_device device;
  const uint64_t high = device();
  return (high << 32 | device()) | 1U;  // never 0
}

/// One replica: its job, or the time of its next start.
struct Replica {
  int32_t index = 0;
  std::optional<Job> job;
  uint64_t id = 0;
  std::string directory;
  Clock::time_point started;
  Clock::time_point next_start = Clock::now();
  std::deque<Clock::time_point> losses;  // within the window
  std::string last_error;                // the most telling line of the job's output
  std::string lost_reason;               // from the gateway
};

}  // namespace

struct Supervisor::Impl {
  SupervisorOptions options;
  spdlog::logger& logger;
  std::function<void(const SupervisorEvent&)> on_event;
  int wake = -1;

  // Written by callers, taken by the thread.
  std::mutex mutex;
  std::function<std::string(uint64_t, int32_t)> new_input;
  std::vector<ReplicaEvent> new_events;
  std::optional<Clock::time_point> stop_at;

  // The thread's own.
  std::vector<Replica> replicas;
  std::function<std::string(uint64_t, int32_t)> input;
  bool any_ready = false;
  bool over = false;  // nothing is started any more
  uint64_t jobs_started = 0;
  std::thread thread;

  Impl(SupervisorOptions o, spdlog::logger& l, std::function<void(const SupervisorEvent&)> e)
      : options(std::move(o)), logger(l), on_event(std::move(e)) {}

  void run();
  std::optional<Clock::time_point> take_messages();
  void wait(std::optional<Clock::time_point> until);
  void start(Replica& replica);
  void feed(Replica& replica);
  void read_output(Replica& replica);
  void ended(Replica& replica);
  void end_all(SupervisorEvent::Kind kind, const Replica& replica, std::string reason);
};

void Supervisor::Impl::run() {
  for (;;) {
    const auto stopping = take_messages();
    const auto now = Clock::now();
    const bool running = std::any_of(replicas.begin(), replicas.end(),
                                     [](const Replica& r) { return r.job.has_value(); });
    if (stopping && (!running || now >= *stopping)) break;
    auto until = stopping;
    for (auto& replica : replicas) {
      if (replica.job || over) continue;
      if (now >= replica.next_start) start(replica);
      if (!replica.job && !over)
        until = std::min(until.value_or(replica.next_start), replica.next_start);
    }
    wait(until);
  }
  for (auto& replica : replicas) {
    replica.job.reset();  // kills what is left
    std::error_code ignored;
    std::filesystem::remove_all(replica.directory, ignored);
  }
}

/// Returns the time at which everything must have ended, once stop() was called.
std::optional<Clock::time_point> Supervisor::Impl::take_messages() {
  std::vector<ReplicaEvent> events;
  std::optional<Clock::time_point> stopping;
  bool fresh_input = false;
  {
    const std::lock_guard lock(mutex);
    events.swap(new_events);
    stopping = stop_at;
    if (new_input) {
      input = std::exchange(new_input, nullptr);
      fresh_input = true;
    }
  }
  if (stopping) over = true;
  for (auto& replica : replicas) {
    if (fresh_input && replica.job) feed(replica);
    for (const auto& event : events) {
      if (!replica.job || event.job != replica.id) continue;
      if (event.kind == ReplicaEvent::Kind::kLost) {
        replica.lost_reason = event.reason;
        if (!over) replica.job->kill();
        continue;
      }
      any_ready = true;
      const std::chrono::duration<double> seconds = Clock::now() - replica.started;
      on_event({SupervisorEvent::Kind::kReady, replica.index, replica.id, seconds.count(), {}});
    }
  }
  return stopping;
}

/// Until something happens to a job, a message arrives or `until`; handles the jobs' news.
void Supervisor::Impl::wait(std::optional<Clock::time_point> until) {
  std::vector<pollfd> fds{{wake, POLLIN, 0}};
  for (const auto& replica : replicas) {
    if (!replica.job) continue;
    fds.push_back({replica.job->exit_fd(), POLLIN, 0});
    fds.push_back({replica.job->output_fd(), POLLIN, 0});  // -1 once closed: ignored by poll
  }
  int timeout = -1;
  if (until) {
    const auto left = std::chrono::ceil<Milliseconds>(*until - Clock::now()).count();
    timeout = static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
  }
  if (poll(fds.data(), fds.size(), timeout) < 0) {
    TROUPE_CHECK(errno == EINTR) << std::strerror(errno);
    return;
  }
  if (fds[0].revents != 0) {
    uint64_t count = 0;
    TROUPE_CHECK(read(wake, &count, sizeof(count)) == sizeof(count));
  }
  size_t i = 1;
  for (auto& replica : replicas) {
    if (!replica.job) continue;
    const bool exited = fds[i].revents != 0;
    const bool output = fds[i + 1].revents != 0;
    i += 2;
    if (output && !exited) read_output(replica);
    if (exited) ended(replica);
  }
}

void Supervisor::Impl::start(Replica& replica) {
  replica.id = random_job();
  replica.last_error.clear();
  replica.lost_reason.clear();
  replica.started = Clock::now();
  replica.directory = options.run_directory + "/job-" + std::to_string(++jobs_started);
  if (mkdir(replica.directory.c_str(), 0700) != 0) {
    return end_all(SupervisorEvent::Kind::kStartFailed, replica,
                   "cannot create " + replica.directory + ": " + std::strerror(errno));
  }
  auto job = Job::start(options.command(replica.directory));
  if (!job) {
    auto reason = job.error().message;
    if (job.error().code == ErrorCode::kNotFound) {
      reason += "; install Open MPI (openmpi-bin), name it with --mpirun, or use --in-process";
    }
    return end_all(SupervisorEvent::Kind::kStartFailed, replica, std::move(reason));
  }
  replica.job.emplace(std::move(*job));
  on_event({SupervisorEvent::Kind::kStarted, replica.index, replica.id, 0, {}});
  if (input) feed(replica);
}

void Supervisor::Impl::feed(Replica& replica) {
  // A job that is gone already says so through its exit.
  const auto sent = replica.job->send_input(input(replica.id, replica.index));
  if (!sent.ok()) logger.warn("replica {}: {}", replica.index, sent.error().message);
}

void Supervisor::Impl::read_output(Replica& replica) {
  for (const auto& line : replica.job->read_lines()) {
    logger.info("replica {}: {}", replica.index, line);
    const bool telling = line.find("error: ") != std::string::npos;
    const bool had_telling = replica.last_error.find("error: ") != std::string::npos;
    if (telling || !had_telling) replica.last_error = line;
  }
}

void Supervisor::Impl::ended(Replica& replica) {
  const std::string how = replica.job->reap();
  if (replica.job->output_fd() >= 0) read_output(replica);
  replica.job.reset();
  std::error_code ignored;
  std::filesystem::remove_all(replica.directory, ignored);
  if (over) return;

  std::string reason = how;
  if (!replica.lost_reason.empty()) reason = replica.lost_reason;
  if (!replica.last_error.empty()) reason += "; its last words: " + replica.last_error;
  if (!any_ready) {
    return end_all(SupervisorEvent::Kind::kStartFailed, replica, std::move(reason));
  }
  const auto now = Clock::now();
  while (!replica.losses.empty() && now - replica.losses.front() > options.window) {
    replica.losses.pop_front();
  }
  const size_t losses = replica.losses.size();
  replica.losses.push_back(now);
  if (losses >= options.restart_delays.size()) {
    return end_all(SupervisorEvent::Kind::kGivenUp, replica,
                   "lost " + std::to_string(losses + 1) + " times within " +
                       std::to_string(options.window.count()) + " s: " + reason);
  }
  const auto delay = options.restart_delays[losses];
  replica.next_start = now + delay;
  logger.warn("replica {} is lost ({}); starting it again in {} ms", replica.index, reason,
              delay.count());
}

void Supervisor::Impl::end_all(SupervisorEvent::Kind kind, const Replica& replica,
                               std::string reason) {
  over = true;
  on_event({kind, replica.index, replica.id, 0, std::move(reason)});
}

Supervisor::Supervisor(SupervisorOptions options, spdlog::logger& logger,
                       std::function<void(const SupervisorEvent&)> on_event)
    : impl_(std::make_unique<Impl>(std::move(options), logger, std::move(on_event))) {
  impl_->wake = eventfd(0, EFD_CLOEXEC);
  TROUPE_CHECK(impl_->wake >= 0) << std::strerror(errno);
  for (int32_t i = 0; i < impl_->options.replicas; ++i) {
    impl_->replicas.emplace_back().index = i;
  }
  impl_->thread = std::thread([impl = impl_.get()] { impl->run(); });
}

Supervisor::~Supervisor() {
  stop(Milliseconds(0));
  close(impl_->wake);
}

namespace {
void ring(int wake) {
  const uint64_t one = 1;
  TROUPE_CHECK(write(wake, &one, sizeof(one)) == sizeof(one));
}
}  // namespace

void Supervisor::provide_input(std::function<std::string(uint64_t, int32_t)> input) {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->new_input = std::move(input);
  }
  ring(impl_->wake);
}

void Supervisor::on_replica(const ReplicaEvent& event) {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->new_events.push_back(event);
  }
  ring(impl_->wake);
}

void Supervisor::stop(std::chrono::milliseconds grace) {
  if (!impl_->thread.joinable()) return;
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stop_at = Clock::now() + grace;
  }
  ring(impl_->wake);
  impl_->thread.join();
}

}  // namespace troupe
