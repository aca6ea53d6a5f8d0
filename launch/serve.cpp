#include "actors/node.h"
#include "gpu/base/check.h"
#include "gpu/model/checkpoint.h"
#include "launch/commands.h"
#include "launch/log.h"
#include "launch/run_directory.h"
#include "launch/service.h"
#include "launch/supervisor.h"
#include "nccl/communicators.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <mutex>

namespace troupe {
namespace {

using Clock = std::chrono::steady_clock;

/// News for the main thread from the supervisor's and the engine's threads.
class Mailbox {
 public:
  Mailbox() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) { TROUPE_CHECK(fd_ >= 0); }
  ~Mailbox() { close(fd_); }
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;
  [[nodiscard]] int fd() const { return fd_; }

  void put(const SupervisorEvent& event) {
    {
      const std::lock_guard lock(mutex_);
      events_.push_back(event);
    }
    const uint64_t one = 1;
    TROUPE_CHECK(write(fd_, &one, sizeof(one)) == sizeof(one));
  }
  std::vector<SupervisorEvent> take() {
    uint64_t count = 0;
    if (read(fd_, &count, sizeof(count)) < 0) return {};
    const std::lock_guard lock(mutex_);
    return std::exchange(events_, {});
  }

 private:
  int fd_;
  std::mutex mutex_;
  std::vector<SupervisorEvent> events_;
};

JobCommand mpirun_command(const ServeCommand& command, const Options& options,
                          const std::string& directory) {
  std::error_code ignored;
  const std::string self = std::filesystem::read_symlink("/proc/self/exe", ignored);
  const std::string yes = "1";
  JobCommand job;
  job.argv = {command.mpirun,
              "-n",
              std::to_string(command.tp),
              "--quiet",
              "--oversubscribe",
              "--bind-to",
              "none",
              "--mca",
              "mpi_yield_when_idle",
              yes,
              "--mca",
              "pml",
              "ob1"};
  const auto mca = [&job](const char* name, const std::string& value) {
    job.argv.insert(job.argv.end(), {"--mca", name, value});
  };
  if (command.hostfile.empty()) {
    // One host: shared memory only, and everything on disk where it vanishes with the job. Naming
    // the components spares probing for others: 0.3 s to the end of MPI_Init instead of 0.6 s.
    mca("btl", "self,vader");
    mca("plm", "isolated");
    mca("btl_vader_single_copy_mechanism", "none");
    mca("orte_tmpdir_base", directory);
    mca("btl_vader_backing_directory", directory);
    mca("osc_sm_backing_directory", directory);
    mca("osc_rdma_backing_directory", directory);
    job.environment.push_back("TMPDIR=" + directory);
  } else {
    mca("btl", "self,vader,tcp");
    job.argv.insert(job.argv.end(), {"--hostfile", command.hostfile});
  }
  job.argv.insert(job.argv.end(), {self, "rank", "--join", "-", "--log-level", options.log.level,
                                   "--log-format", options.log.format});
  // mpirun refuses root otherwise; that is the user's decision to take, and taken already.
  job.environment.emplace_back("OMPI_ALLOW_RUN_AS_ROOT=1");
  job.environment.emplace_back("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1");
  return job;
}

std::string host_name() {
  char name[256] = "localhost";
  gethostname(name, sizeof(name) - 1);
  return name;
}

Status add_in_process_replicas(Service& service, const Checkpoint& checkpoint,
                               const ServeCommand& command, const Environment& environment) {
  for (int32_t i = 0; i < command.dp; ++i) {
    const int32_t threads =
        threads_per_rank(command.shape.threads, environment.cores, command.tp * command.dp);
    ExecutorOptions executor = executor_options(command.shape, threads, environment);
    executor.device_index = i;
    const auto added = service.node().add_local_replica(checkpoint, executor,
                                                        make_thread_communicators(command.tp));
    if (!added.ok()) return added;
  }
  return ok_status();
}

/// Everything of one run, in the order it is started.
class Run {
 public:
  Run(const ServeCommand& command, const Options& options)
      : command_(command), options_(options), logger_(make_logger(options.log, "serve")) {}

  int run();

 private:
  int failed(const Error& error) {
    logger_->error("error: {}", error.message);
    return kExitStart;
  }
  void start_supervisor(const RunDirectory& directory);
  int watch(Service& service, const Signals& signals);
  int leave(Service& service, const Signals& signals, int signal_number);

  const ServeCommand& command_;
  const Options& options_;
  std::unique_ptr<spdlog::logger> logger_;
  Clock::time_point begin_ = Clock::now();
  Mailbox mailbox_;
  std::unique_ptr<Supervisor> supervisor_;
};

void Run::start_supervisor(const RunDirectory& directory) {
  SupervisorOptions supervision;
  supervision.replicas = command_.dp;
  supervision.run_directory = directory.path();
  supervision.command = [this](const std::string& job_directory) {
    return mpirun_command(command_, options_, job_directory);
  };
  supervisor_ =
      std::make_unique<Supervisor>(std::move(supervision), *logger_,
                                   [this](const SupervisorEvent& event) { mailbox_.put(event); });
}

int Run::run() {
  const Signals signals;
  prctl(PR_SET_CHILD_SUBREAPER, 1);  // ranks that outlive their mpirun are reaped here
  auto directory = RunDirectory::create(options_.environment);
  if (!directory) return failed(directory.error());
  logger_->info("{}", options_.summary);

  auto checkpoint = Checkpoint::open(command_.model);
  if (!checkpoint) return failed(checkpoint.error());
  if (const auto fits = check_against_model(command_, command_.tp, **checkpoint); !fits.ok()) {
    return failed(fits.error());
  }
  const auto tls = make_tls_material();
  if (!tls) return failed(tls.error());
  auto files = TlsMemoryFiles::create(*tls);
  if (!files) return failed(files.error());

  // Before the service and the run directory go; the object stays, the service still calls it.
  struct EndJobs {
    std::unique_ptr<Supervisor>& supervisor;
    ~EndJobs() {
      if (supervisor) supervisor->stop(std::chrono::milliseconds(0));
    }
  };
  const EndJobs end_jobs{supervisor_};

  // mpirun needs its third of a second while the tokenizer loads; its ranks then wait for the
  // address on their standard input.
  if (!command_.in_process) start_supervisor(*directory);
  const std::string rank_host = !command_.rank_host.empty() ? command_.rank_host
                                : command_.hostfile.empty() ? "127.0.0.1"
                                                            : host_name();
  auto service = Service::start(
      **checkpoint, command_, files->paths(), rank_host,
      [this](const ReplicaEvent& event) {
        if (supervisor_) return supervisor_->on_replica(event);
        if (event.kind == ReplicaEvent::Kind::kReady) {
          mailbox_.put({SupervisorEvent::Kind::kReady, 0, event.job, 0, {}});
        } else {
          mailbox_.put({SupervisorEvent::Kind::kGivenUp, 0, event.job, 0, event.reason});
        }
      },
      *logger_);
  if (!service) return failed(service.error());

  int32_t threads = command_.shape.threads;
  if (threads == 0 && command_.hostfile.empty()) {
    threads = threads_per_rank(0, options_.environment.cores, command_.tp * command_.dp);
  }
  JoinInfo info = join_info_for(*service, command_, *tls, rank_host);
  info.shape.threads = threads;
  const std::string join_file =
      command_.join_file.empty() ? directory->path() + "/join.json" : command_.join_file;
  if (const auto written = write_private_file(join_file, to_json(info)); !written.ok()) {
    return failed(written.error());
  }
  logger_->info("to add a replica: mpirun -n N troupe rank --join {}", join_file);
  if (supervisor_) {
    supervisor_->provide_input([this, info](uint64_t job, int32_t replica) {
      JoinInfo mine = info;
      mine.job = job;
      mine.first_gpu = command_.hostfile.empty() ? replica * command_.tp : 0;
      return to_json(mine);
    });
  } else if (const auto added =
                 add_in_process_replicas(*service, **checkpoint, command_, options_.environment);
             !added.ok()) {
    return failed(added.error());
  }
  const int code = watch(*service, signals);
  if (!command_.join_file.empty()) unlink(join_file.c_str());
  if (supervisor_) supervisor_->stop(std::chrono::milliseconds(0));
  return code;
}

int Run::watch(Service& service, const Signals& signals) {
  bool ready = false;
  for (;;) {
    pollfd fds[2] = {{signals.fd(), POLLIN, 0}, {mailbox_.fd(), POLLIN, 0}};
    if (poll(fds, 2, -1) < 0) continue;
    if (const auto signal_number = signals.take()) return leave(service, signals, *signal_number);
    for (const auto& event : mailbox_.take()) {
      switch (event.kind) {
        case SupervisorEvent::Kind::kStarted:
          logger_->debug("replica {} is starting", event.replica);
          break;
        case SupervisorEvent::Kind::kReady: {
          const std::chrono::duration<double> seconds = Clock::now() - begin_;
          if (ready) {
            logger_->info("replica {} is ready", event.replica);
          } else {
            logger_->info("ready at {} after {:.2f} s", service.url(), seconds.count());
          }
          ready = true;
          break;
        }
        case SupervisorEvent::Kind::kStartFailed:
          logger_->error("error: replica {} did not start: {}", event.replica, event.reason);
          return kExitStart;
        case SupervisorEvent::Kind::kGivenUp:
          logger_->error("error: replica {} is given up: {}", event.replica, event.reason);
          return kExitGivenUp;
      }
    }
  }
}

int Run::leave(Service& service, const Signals& signals, int signal_number) {
  logger_->info("signal {}", signal_number);
  if (const auto second = service.drain(command_.drain_timeout, signals, *logger_)) {
    logger_->warn("signal {}: leaving at once", *second);
    if (supervisor_) supervisor_->stop(std::chrono::milliseconds(0));
    return 128 + *second;
  }
  service.node().dismiss(0);
  if (supervisor_) supervisor_->stop(std::chrono::milliseconds(2000));
  logger_->info("stopped");
  return kExitOk;
}

}  // namespace

int serve(const ServeCommand& command, const Options& options) {
  return Run(command, options).run();
}

}  // namespace troupe
