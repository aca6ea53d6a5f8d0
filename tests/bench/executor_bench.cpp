// The bare executor loop, without actors or HTTP: what everything above it is measured against.
//
//   executor_bench MODEL [--ranks N] [--repeat K] [--exact]     ranks on threads of this process
//   mpirun -n N executor_bench MODEL ...                        one process a rank
//   executor_bench --smoke                                      a tiny random model, no figures
//
// Prints one JSON line per case with the median over the repeats. cpu_tokens_per_s divides by the
// processor time of the first rank's thread instead: on a busy machine the steadier figure (with
// one rank; with more it includes spinning).
#include "gpu/executor.h"
#include "gpu/model/checkpoint.h"
#include "nccl/communicators.h"
#include "tests/support/run_ranks.h"
#include "tests/support/step_script.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

#ifdef TROUPE_BENCH_MPI
#include <mpi.h>
#endif

#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace troupe {
namespace {

using Clock = std::chrono::steady_clock;

double thread_cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Options {
  std::string model;
  int32_t ranks = 2;
  int32_t repeat = 5;
  std::string only;  // run cases whose name contains this
  bool smoke = false;
  ExecutorOptions executor;
};

/// `streams` rows with `context` tokens each, prefilled outside the measurement unless
/// `n_decode` is 0; then the prefill is what is measured.
struct Case {
  const char* name;
  int32_t streams;
  int32_t context;
  int32_t n_decode;
};
constexpr Case kCases[] = {
    {"decode_1_after_16", 1, 16, 128},  {"decode_1_after_1024", 1, 1024, 64},
    {"decode_16_after_16", 16, 16, 64}, {"prefill_512", 1, 512, 0},
    {"prefill_1024", 1, 1024, 0},
};

/// Plans of a case; the first `n_setup` are not measured.
struct Work {
  std::vector<StepPlan> plans;
  size_t n_setup = 0;
  int32_t tokens = 0;
};

constexpr int32_t kSmokeShrink = 16;  // cases by so much
constexpr int32_t kSmokeVocab = 320;

Work make_work(Case c, const ExecutorOptions& options, bool smoke) {
  if (smoke) {
    c.context = std::max(1, c.context / kSmokeShrink);
    c.n_decode /= kSmokeShrink;
  }
  const size_t vocab = smoke ? kSmokeVocab - 100 : 40000;
  test::StepScript script(options.n_slots, 1);
  std::vector<int32_t> prompt(static_cast<size_t>(c.context));
  for (size_t i = 0; i < prompt.size(); ++i) {
    prompt[i] = static_cast<int32_t>(100 + i * 37 % vocab);
  }
  SamplingParams sampling;
  sampling.temperature = 0;
  Work work;
  for (int32_t row = 0; row < c.streams; ++row) {
    for (int32_t at = 0; at < c.context; at += options.max_step_tokens) {
      const int32_t n = std::min(options.max_step_tokens, c.context - at);
      script.begin_step();
      if (at == 0) script.open(row, c.context, sampling);
      script.feed(row, std::span(prompt).subspan(static_cast<size_t>(at), static_cast<size_t>(n)),
                  at + n == c.context);
    }
  }
  if (c.n_decode > 0) work.n_setup = script.plans().size();
  for (int32_t i = 0; i < c.n_decode; ++i) {
    script.begin_step();
    for (int32_t row = 0; row < c.streams; ++row) script.decode(row);
  }
  work.plans = script.plans();
  work.tokens = c.n_decode > 0 ? c.n_decode * c.streams : c.context;
  return work;
}

int32_t run_rank(const Options& options, Communicator& communicator, const char* transport) {
  const auto start = Clock::now();
  auto checkpoint = Checkpoint::open(options.model);
  if (!checkpoint) {
    std::fprintf(stderr, "%s\n", checkpoint.error().message.c_str());
    return 2;
  }
  auto created = Executor::create(**checkpoint, options.executor, communicator);
  if (!created) {
    std::fprintf(stderr, "%s\n", created.error().message.c_str());
    return 2;
  }
  Executor& executor = **created;
  const std::chrono::duration<double> load = Clock::now() - start;
  const auto memory = executor.memory();
  const bool first = communicator.rank() == 0;
  if (first)
    std::printf(
        "{\"bench\":\"executor\",\"case\":\"load\",\"ranks\":%d,\"transport\":\"%s\","
        "\"seconds\":%.3f,\"weights_mb\":%.1f,\"kv_mb\":%.1f,\"workspace_mb\":%.1f}\n",
        communicator.size(), transport, load.count(), static_cast<double>(memory.weights) / 1e6,
        static_cast<double>(memory.kv) / 1e6, static_cast<double>(memory.workspace) / 1e6);
  for (const Case& c : kCases) {
    if (std::string(c.name).find(options.only) == std::string::npos) continue;
    const Work work = make_work(c, options.executor, options.smoke);
    std::vector<double> seconds;
    std::vector<double> cpu_seconds;
    for (int32_t i = 0; i <= options.repeat; ++i) {
      executor.reset();
      for (size_t p = 0; p < work.n_setup; ++p) executor.run(work.plans[p]);
      const auto begin = Clock::now();
      const double cpu_begin = thread_cpu_seconds();
      for (size_t p = work.n_setup; p < work.plans.size(); ++p) executor.run(work.plans[p]);
      if (i == 0) continue;  // the first warms up
      seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
      cpu_seconds.push_back(thread_cpu_seconds() - cpu_begin);
    }
    if (first)
      std::printf(
          "{\"bench\":\"executor\",\"case\":\"%s\",\"ranks\":%d,\"transport\":\"%s\","
          "\"threads\":%d,\"repeat\":%d,\"tokens_per_s\":%.1f,\"best_tokens_per_s\":%.1f,"
          "\"cpu_tokens_per_s\":%.1f}\n",
          c.name, communicator.size(), transport, options.executor.n_threads, options.repeat,
          work.tokens / median(seconds),
          work.tokens / *std::min_element(seconds.begin(), seconds.end()),
          work.tokens / median(cpu_seconds));
    std::fflush(stdout);
  }
  return 0;
}

int32_t parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const auto number = [&] { return i + 1 < argc ? std::atoi(argv[++i]) : 0; };
    if (arg == "--ranks") {
      options.ranks = number();
    } else if (arg == "--threads") {
      options.executor.n_threads = number();
    } else if (arg == "--repeat") {
      options.repeat = number();
    } else if (arg == "--smoke") {
      options.smoke = true;
      options.repeat = 1;
    } else if (arg == "--only" && i + 1 < argc) {
      options.only = argv[++i];
    } else if (arg == "--exact") {
      options.executor.weights = WeightMode::kExact;
      options.executor.kv = DType::kF32;
    } else {
      options.model = arg;
    }
  }
  if (options.model.empty() == options.smoke && options.ranks >= 1 && options.repeat >= 1) return 0;
  std::fprintf(stderr,
               "usage: executor_bench MODEL [--ranks N] [--threads N] [--repeat K] "
               "[--only CASE] [--exact]\n"
               "       executor_bench --smoke\n");
  return 2;
}

}  // namespace
}  // namespace troupe

int main(int argc, char** argv) {
  troupe::Options options;
  if (troupe::parse(argc, argv, options) != 0) return 2;
  std::optional<troupe::test::TempDir> directory;
  if (options.smoke) {
    directory.emplace();
    options.model = *directory / "tiny.gguf";
    troupe::test::TinyModel tiny;
    tiny.vocab = troupe::kSmokeVocab;
    troupe::test::write_tiny_gguf(tiny, options.model);
  }
#ifdef TROUPE_BENCH_MPI
  if (std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr) {
    int provided = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    const int32_t rc = troupe::run_rank(options, *troupe::make_mpi_communicator(), "mpi");
    MPI_Finalize();
    return rc;
  }
#endif
  std::vector<int32_t> codes(static_cast<size_t>(options.ranks));
  troupe::test::run_ranks(options.ranks, [&](troupe::Communicator& c) {
    codes[static_cast<size_t>(c.rank())] = troupe::run_rank(options, c, "threads");
  });
  return *std::max_element(codes.begin(), codes.end());
}
