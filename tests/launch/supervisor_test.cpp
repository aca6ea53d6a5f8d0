#include "launch/supervisor.h"

#include "launch/run_directory.h"

#include <gmock/gmock.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/null_sink.h>

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <condition_variable>
#include <csignal>
#include <filesystem>
#include <mutex>
#include <set>
#include <thread>

namespace troupe {
namespace {

using ::testing::HasSubstr;
using Kind = SupervisorEvent::Kind;
namespace fs = std::filesystem;

constexpr auto kLong = std::chrono::seconds(20);

bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds limit = kLong) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    usleep(2000);
  }
  return true;
}

bool alive(pid_t pid) { return ::kill(pid, 0) == 0; }
/// A killed process takes a moment to leave.
bool gone(pid_t pid) {
  return eventually([pid] { return !alive(pid); }, std::chrono::seconds(5));
}

/// A supervisor of fake ranks, with a folder in which these leave their traces.
class SupervisorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    signal(SIGPIPE, SIG_IGN);
    char name[] = "/tmp/troupe-test-XXXXXX";
    traces_ = mkdtemp(name);
    run_.emplace(std::move(RunDirectory::create(Environment{}).value()));
  }
  void TearDown() override {
    supervisor_.reset();
    fs::remove_all(traces_);
  }

  SupervisorOptions options(const std::string& mode, const std::string& mpirun = "mpirun") {
    SupervisorOptions options;
    options.run_directory = run_->path();
    options.command = [this, mode, mpirun](const std::string& directory) {
      JobCommand job;
      job.argv = {mpirun, "-n", "2", "--quiet", "--oversubscribe", "--bind-to", "none"};
      for (const auto& [name, value] : std::vector<std::pair<const char*, std::string>>{
               {"btl", "self,vader"},
               {"pml", "ob1"},
               {"plm", "isolated"},
               {"orte_tmpdir_base", directory},
               {"btl_vader_backing_directory", directory}}) {
        job.argv.insert(job.argv.end(), {"--mca", name, value});
      }
      job.argv.insert(job.argv.end(),
                      {FAKE_RANK, mode_override_.empty() ? mode : mode_override_, traces_});
      job.environment = {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
                         "ASAN_OPTIONS=detect_leaks=0", "TMPDIR=" + directory};
      return job;
    };
    return options;
  }

  void start(SupervisorOptions options) {
    supervisor_ = std::make_unique<Supervisor>(std::move(options), logger_,
                                               [this](const SupervisorEvent& event) {
                                                 const std::lock_guard lock(mutex_);
                                                 events_.push_back(event);
                                                 changed_.notify_all();
                                               });
    supervisor_->provide_input(
        [](uint64_t job, int32_t /*replica*/) { return std::to_string(job); });
  }

  /// The first event that has not been returned before.
  SupervisorEvent next() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kLong, [this] { return events_.size() > taken_; }));
    return events_.size() > taken_ ? events_[taken_++] : SupervisorEvent{};
  }
  /// Waits until both ranks of `job` run, reports it ready and returns their pids.
  std::set<pid_t> become_ready(uint64_t job, size_t ranks_so_far) {
    EXPECT_TRUE(eventually([&] { return ranks().size() == ranks_so_far + 2; }));
    EXPECT_TRUE(fs::exists(traces_ + "/input." + std::to_string(job)));
    supervisor_->on_replica({ReplicaEvent::Kind::kReady, job, {}});
    const auto ready = next();
    EXPECT_EQ(ready.kind, Kind::kReady);
    EXPECT_EQ(ready.job, job);
    return ranks();
  }
  [[nodiscard]] std::set<pid_t> ranks() const {
    std::set<pid_t> pids;
    for (const auto& entry : fs::directory_iterator(traces_)) {
      const std::string name = entry.path().filename();
      if (name.starts_with("rank.")) pids.insert(std::stoi(name.substr(5)));
    }
    return pids;
  }

  std::string traces_;
  std::string mode_override_;
  std::optional<RunDirectory> run_;
  spdlog::logger logger_{"test", std::make_shared<spdlog::sinks::null_sink_mt>()};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<SupervisorEvent> events_;
  size_t taken_ = 0;
  std::unique_ptr<Supervisor> supervisor_;
};

TEST_F(SupervisorTest, starts_a_job_and_leaves_nothing_when_stopped) {
  start(options("stay"));
  const auto started = next();
  ASSERT_EQ(started.kind, Kind::kStarted);
  EXPECT_NE(started.job, 0U);
  const auto pids = become_ready(started.job, 0);
  supervisor_->stop(std::chrono::milliseconds(0));
  for (const pid_t pid : pids) EXPECT_TRUE(gone(pid));
  EXPECT_TRUE(fs::is_empty(run_->path()));
}

TEST_F(SupervisorTest, a_killed_rank_ends_its_job_and_a_new_one_starts) {
  start(options("stay"));
  const auto first = next();
  const auto old = become_ready(first.job, 0);
  ::kill(*old.begin(), SIGKILL);
  supervisor_->on_replica({ReplicaEvent::Kind::kLost, first.job, "connection lost"});
  const auto second = next();
  ASSERT_EQ(second.kind, Kind::kStarted);
  EXPECT_NE(second.job, first.job);
  for (const pid_t pid : old) EXPECT_TRUE(gone(pid));
  become_ready(second.job, 2);
}

TEST_F(SupervisorTest, a_frozen_rank_is_ended_too) {
  start(options("stay"));
  const auto first = next();
  const auto old = become_ready(first.job, 0);
  for (const pid_t pid : old) ::kill(pid, SIGSTOP);
  supervisor_->on_replica({ReplicaEvent::Kind::kLost, first.job, "no heartbeat"});
  ASSERT_EQ(next().kind, Kind::kStarted);
  for (const pid_t pid : old) EXPECT_TRUE(gone(pid));
}

TEST_F(SupervisorTest, events_of_other_jobs_change_nothing) {
  start(options("stay"));
  const auto first = next();
  supervisor_->on_replica({ReplicaEvent::Kind::kLost, first.job + 2, "another"});
  supervisor_->on_replica({ReplicaEvent::Kind::kReady, first.job + 2, {}});
  const auto pids = become_ready(first.job, 0);
  for (const pid_t pid : pids) EXPECT_TRUE(alive(pid));
}

TEST_F(SupervisorTest, a_replica_that_is_lost_again_and_again_is_given_up) {
  auto two = options("stay");
  two.restart_delays = {std::chrono::milliseconds(0), std::chrono::milliseconds(1)};
  start(std::move(two));
  size_t seen = 0;
  for (int life = 0; life < 3; ++life) {
    const auto started = next();
    ASSERT_EQ(started.kind, Kind::kStarted);
    const auto pids = become_ready(started.job, seen);
    seen = pids.size();
    supervisor_->on_replica({ReplicaEvent::Kind::kLost, started.job, "test says so"});
  }
  const auto last = next();
  EXPECT_EQ(last.kind, Kind::kGivenUp);
  EXPECT_THAT(last.reason, HasSubstr("test says so"));
  for (const pid_t pid : ranks()) EXPECT_TRUE(gone(pid));
}

TEST_F(SupervisorTest, restarts_at_once_then_after_one_and_two_seconds) {
  const SupervisorOptions defaults;
  using std::chrono::milliseconds;
  EXPECT_EQ(defaults.restart_delays,
            (std::vector<milliseconds>{milliseconds(0), milliseconds(1000), milliseconds(2000)}));
  EXPECT_EQ(defaults.window, std::chrono::seconds(60));
}

TEST_F(SupervisorTest, a_failing_first_start_names_the_ranks_own_cause) {
  start(options("fail"));
  ASSERT_EQ(next().kind, Kind::kStarted);
  const auto failed = next();
  EXPECT_EQ(failed.kind, Kind::kStartFailed);
  EXPECT_THAT(failed.reason, HasSubstr("no memory for 8192 tokens"));
}

TEST_F(SupervisorTest, a_missing_mpirun_is_named) {
  start(options("stay", "/no/such/mpirun"));
  const auto failed = next();
  EXPECT_EQ(failed.kind, Kind::kStartFailed);
  EXPECT_THAT(failed.reason, HasSubstr("/no/such/mpirun"));
  EXPECT_THAT(failed.reason, HasSubstr("openmpi-bin"));
}

TEST_F(SupervisorTest, dismissed_jobs_end_by_themselves_within_the_grace) {
  start(options("leave"));
  ASSERT_EQ(next().kind, Kind::kStarted);
  ASSERT_TRUE(eventually([&] { return ranks().size() == 2; }));
  supervisor_->stop(kLong);
  for (const pid_t pid : ranks()) EXPECT_TRUE(gone(pid));
}

TEST_F(SupervisorTest, killing_the_gateway_leaves_no_rank_and_no_directory) {
  const std::string directory_file = traces_ + "/run-directory";
  const pid_t gateway = fork();
  if (gateway == 0) {
    run_.emplace(std::move(RunDirectory::create(Environment{}).value()));
    fs::create_symlink(run_->path(), directory_file);
    start(options("stay"));
    for (;;) pause();
  }
  ASSERT_TRUE(eventually([&] { return ranks().size() == 2; }));
  const std::string run = fs::read_symlink(directory_file);
  ASSERT_TRUE(fs::exists(run));
  ::kill(gateway, SIGKILL);
  waitpid(gateway, nullptr, 0);
  EXPECT_TRUE(eventually(
      [&] {
        while (waitpid(-1, nullptr, WNOHANG) > 0) {  // orphans come to this subreaper
        }
        const auto pids = ranks();
        return std::none_of(pids.begin(), pids.end(), alive) && !fs::exists(run);
      },
      std::chrono::seconds(5)));
}

}  // namespace
}  // namespace troupe
