#include "actors/log_file.h"
#include "actors/router/log_reader.h"
#include "actors/router/recorded_router.h"
#include "actors/router/replay.h"
#include "actors/sim/simulation.h"
#include "gpu/sim/model_shapes.h"
#include "tests/support/temp_dir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/stat.h>
#include <fstream>
#include <iterator>
#include <random>

namespace troupe {
namespace {

using test::TempDir;
using ::testing::HasSubstr;

CostModel small_model() {
  return *CostModel::create(*find_model_shape("llama-3-8b"), *builtin_coefficients("h200"), 1,
                            SimType::kFp8, SimType::kFp8);
}

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Simulates `requests` of `spec` on two small replicas and returns the log.
std::string log_of(const std::string& spec, int32_t requests, int64_t limit = int64_t{1} << 40,
                   std::string* why = nullptr) {
  const TempDir directory;
  const CostModel model = small_model();
  SimulationOptions options;
  options.dp = 2;
  options.max_rows = 32;
  options.max_step_tokens = 256;
  options.kv_slots = 6000;  // so that requests are paused
  WorkloadOptions workload;
  workload.requests = requests;
  workload.rate = 200;
  workload.max_context = 5000;
  auto recorder = record_to_file(directory / "log", limit, simulation_limits(model, options), true,
                                 [&](const std::string& text) {
                                   if (why != nullptr) *why += text + "\n";
                                 });
  EXPECT_TRUE(recorder.ok());
  options.recorder = recorder->get();
  const auto result = simulate(model, *make_workload(spec, workload), options);
  EXPECT_TRUE(result.ok()) << result.error().message;
  EXPECT_EQ(result->finished, requests);
  recorder->reset();
  return read(directory / "log");
}

std::string refusal(const std::string& log, bool partial = false) {
  const auto report = replay(log, "log", partial, nullptr);
  return report.ok() ? "" : report.error().message;
}

TEST(Replay, DecidesEverythingAgain) {
  const std::string log = log_of("random:20-600/10-400", 400);
  const auto report = replay(log, "log", false, nullptr);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_EQ(report->requests, 400U);
  EXPECT_EQ(report->differing, 0U);
  EXPECT_GT(report->decisions, 1000U);
  EXPECT_LE(log.size(), 16 * report->computed_tokens);
}

TEST(Replay, OneStreamTakesFewBytesToo) {
  const std::string log = log_of("random:20/300", 1);
  const auto report = replay(log, "log", false, nullptr);
  ASSERT_TRUE(report.ok());
  EXPECT_LE(log.size(), 16 * report->computed_tokens);
}

TEST(Replay, ShowsDecisionsToTheWatcherInOrder) {
  const std::string log = log_of("random:20-60/10-40", 20);
  uint64_t next = 0;
  std::string words;
  const auto report = replay(log, "log", false, [&](const ReplayedDecision& d) {
    EXPECT_EQ(d.index, next++);
    words += describe(d);
  });
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(next, report->decisions);
  EXPECT_THAT(words, HasSubstr("request 7 accepted"));
  EXPECT_THAT(words, HasSubstr("plan job 1 step 1: "));
  EXPECT_THAT(words, HasSubstr("request 20 ends: stop"));
}

TEST(Replay, SeesAChangedDecision) {
  // The last plan record with a digest is followed by its four bytes: change one.
  std::string log = log_of("random:20-60/10-40", 20);
  size_t digest_at = 0;
  {
    auto reader = LogReader::open(log, "log");
    ASSERT_TRUE(reader.ok());
    for (;;) {
      const auto event = reader->next();
      ASSERT_TRUE(event.ok());
      if (event->kind == log::Kind::kEnd) break;
      if (event->kind == log::Kind::kPlan && !event->nothing) digest_at = reader->offset() - 1;
    }
  }
  log[digest_at] = static_cast<char>(log[digest_at] ^ 1);
  const auto report = replay(log, "log", false, nullptr);
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->differing, 1U);
}

TEST(Replay, EndsWhereAnotherPolicyMakesTheResultsUseless) {
  // The log with another token budget in its header stands for another build.
  std::string log = log_of("random:20-600/10-100", 50);
  const size_t header = log::kMagic.size() + 1;
  RouterLimits limits;
  {
    const auto reader = LogReader::open(log, "log");
    ASSERT_TRUE(reader.ok());
    limits = reader->limits();
  }
  const TempDir directory;
  limits.max_step_tokens = 64;
  { auto other = record_to_file(directory / "other", 1 << 20, limits, false, nullptr); }
  std::string changed = read(directory / "other");
  changed.pop_back();  // its end record
  size_t body = 0;
  {
    const auto reader = LogReader::open(log, "log");
    body = reader->offset();
  }
  ASSERT_GT(body, header);
  const auto report = replay(changed + log.substr(body), "log", false, nullptr);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_GT(report->differing, 0U);
}

TEST(Replay, RefusesWhatIsNoLog) {
  EXPECT_THAT(refusal("{}"), HasSubstr("not a router log at byte 0"));
  EXPECT_THAT(refusal(""), HasSubstr("not a router log"));
  std::string log = log_of("random:20/10", 2);
  log[log::kMagic.size()] = 9;
  EXPECT_THAT(refusal(log), HasSubstr("version 9, this program reads version 1 at byte 6"));
}

TEST(Replay, RefusesEveryTruncationAndReplaysItInPart) {
  const std::string log = log_of("random:20-60/5-20", 8);
  size_t replayed = 0;
  for (size_t n = 0; n < log.size(); ++n) {
    const std::string cut = log.substr(0, n);
    EXPECT_THAT(refusal(cut), HasSubstr("at byte")) << n;
    const auto part = replay(cut, "log", true, nullptr);
    if (part.ok()) {
      ++replayed;
      EXPECT_EQ(part->differing, 0U) << n;
    }
  }
  EXPECT_GT(replayed, log.size() / 2);
}

TEST(Replay, RefusesBytesAfterTheEnd) {
  EXPECT_THAT(refusal(log_of("random:20/10", 2) + "x"), HasSubstr("bytes after the end"));
}

TEST(Replay, SurvivesDamage) {
  const std::string log = log_of("random:20-60/5-20", 8);
  std::mt19937 random(1);
  int refused = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string damaged = log;
    for (int k = 0; k < 1 + i % 3; ++k) {
      damaged[random() % damaged.size()] = static_cast<char>(random());
    }
    const auto report = replay(damaged, "log", false, nullptr);
    if (!report.ok() || report->differing > 0) ++refused;
  }
  EXPECT_GT(refused, 1000);
}

TEST(Recorder, StopsAtItsLimitWithOneMessageAndAGoodLog) {
  std::string why;
  const std::string log = log_of("random:20-600/10-400", 100, 20000, &why);
  EXPECT_LE(log.size(), 20000U);
  EXPECT_GT(log.size(), 15000U);
  EXPECT_THAT(why, HasSubstr("has stopped: the log is at its limit\n"));
  EXPECT_EQ(std::count(why.begin(), why.end(), '\n'), 1);
  const auto report = replay(log, "log", false, nullptr);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_EQ(report->differing, 0U);
}

TEST(Recorder, AFullDiskStopsTheRecorderAlone) {
  int told = 0;
  RouterLimits limits;
  limits.max_context = 100;
  auto recorder = record_to_file("/dev/full", 1 << 30, limits, false, [&](const std::string& why) {
    ++told;
    EXPECT_THAT(why, HasSubstr("No space left"));
  });
  ASSERT_TRUE(recorder.ok());
  TokenizedRequest request;
  request.prompt.assign(1 << 20, 5);
  // The file is written by another thread: it fails in its own time.
  for (Micros now = 1; (*recorder)->active(); ++now) {
    request.id = static_cast<RequestId>(now);
    (*recorder)->submit(request, now);
  }
  (*recorder)->tick(3);
  recorder->reset();
  EXPECT_EQ(told, 1);
}

TEST(Recorder, TheFileIsItsOwnersAlone) {
  const TempDir directory;
  RouterLimits limits;
  limits.max_context = 100;
  const auto recorder = record_to_file(directory / "log", 1 << 20, limits, false, nullptr);
  ASSERT_TRUE(recorder.ok());
  struct stat status {};
  ASSERT_EQ(stat((directory / "log").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0600U);
  const auto nowhere = record_to_file(directory / "no/log", 1 << 20, limits, false, nullptr);
  ASSERT_FALSE(nowhere.ok());
  EXPECT_EQ(nowhere.error().code, ErrorCode::kIo);
}

/// Everything a request can carry, and every kind of event, goes through the log unharmed.
TEST(Recorder, EveryEventReadsBack) {
  const TempDir directory;
  RouterLimits limits;
  limits.max_context = 4096;
  limits.max_queue = 3;
  limits.decode_slowdown = 1.25;
  limits.tenant_weights = {{7, 2.5}};
  TokenizedRequest request;
  request.id = 300;
  request.prompt = {1, 200000, 3};
  request.max_tokens = 17;
  request.stop_tokens = {2};
  request.submitted = 900;
  request.deadline = 5000;
  request.priority = -3;
  request.tenant = 7;
  request.cache_salt = uint64_t{1} << 63;
  request.endpoint = 2;
  request.ttft_target = 1000;
  request.tpot_target = 50;
  request.sampling.temperature = 0.5F;
  request.sampling.seed = ~uint64_t{0};
  request.sampling.logit_bias = {{9, -1.5F}};
  request.sampling.stop_tokens = {4};
  {
    auto recorder = record_to_file(directory / "log", 1 << 20, limits, false, nullptr);
    ASSERT_TRUE(recorder.ok());
    (*recorder)->submit(request, 1000);
    (*recorder)->replica_ready({42, 8, 100, 4, 64}, 1, 1001);
    StepResult result;
    result.epoch = 1;
    result.step = 1;
    result.timings = {123, 45};
    result.sampled = {{3, 70000, 0, {}, false}, {0, 5, 0, {}, true}};
    (*recorder)->apply(42, 3, result, 1002);  // not rank 0: left out
    (*recorder)->apply(42, 0, result, 1003);
    result.epoch = 9;
    (*recorder)->apply(42, 0, result, 1004);  // of another epoch: left out
    (*recorder)->cancel(300, 1005);
    (*recorder)->finish(301, 1006);
    (*recorder)->tick(1007);
    (*recorder)->reset_prefix_cache();
    (*recorder)->drain();
    (*recorder)->replica_lost(42, 1008);
    (*recorder)->planned({}, 1009);
  }
  const std::string bytes = read(directory / "log");
  auto reader = LogReader::open(bytes, "log");
  ASSERT_TRUE(reader.ok()) << reader.error().message;
  EXPECT_EQ(reader->limits().max_queue, 3);
  EXPECT_EQ(reader->limits().decode_slowdown, 1.25);
  EXPECT_EQ(reader->limits().tenant_weights, limits.tenant_weights);
  std::vector<LogEvent> events;
  do {
    auto event = reader->next();
    ASSERT_TRUE(event.ok()) << event.error().message;
    events.push_back(std::move(*event));
  } while (events.back().kind != log::Kind::kEnd);
  ASSERT_EQ(events.size(), 11U);
  const TokenizedRequest& r = events[0].request;
  EXPECT_EQ(events[0].now, 1000);
  EXPECT_EQ(r.id, request.id);
  EXPECT_EQ(r.prompt, request.prompt);
  EXPECT_EQ(r.max_tokens, 17);
  EXPECT_EQ(r.stop_tokens, request.stop_tokens);
  EXPECT_EQ(r.submitted, 900);
  EXPECT_EQ(r.deadline, 5000);
  EXPECT_EQ(r.priority, -3);
  EXPECT_EQ(r.tenant, 7U);
  EXPECT_EQ(r.cache_salt, request.cache_salt);
  EXPECT_EQ(r.endpoint, 2);
  EXPECT_EQ(r.ttft_target, 1000);
  EXPECT_EQ(r.tpot_target, 50);
  EXPECT_EQ(r.sampling.temperature, 0.5F);
  EXPECT_EQ(r.sampling.seed, ~uint64_t{0});
  ASSERT_EQ(r.sampling.logit_bias.size(), 1U);
  EXPECT_EQ(r.sampling.logit_bias[0].bias, -1.5F);
  EXPECT_EQ(r.sampling.stop_tokens, request.sampling.stop_tokens);
  EXPECT_EQ(events[1].replica.job, 42U);
  EXPECT_EQ(events[1].replica.n_ranks, 1) << "a log is that of rank 0";
  EXPECT_EQ(events[1].replica.n_slots, 100);
  EXPECT_EQ(events[2].now, 1003);
  EXPECT_EQ(events[2].job, 42U);
  EXPECT_EQ(events[2].result.timings.compute_us, 123U);
  ASSERT_EQ(events[2].result.sampled.size(), 2U);
  EXPECT_EQ(events[2].result.sampled[0].row, 3);
  EXPECT_EQ(events[2].result.sampled[0].token, 70000);
  EXPECT_TRUE(events[2].result.sampled[1].failed);
  EXPECT_EQ(events[3].id, 300U);
  EXPECT_EQ(events[4].id, 301U);
  EXPECT_EQ(events[5].kind, log::Kind::kTick);
  EXPECT_EQ(events[6].kind, log::Kind::kResetCache);
  EXPECT_EQ(events[7].kind, log::Kind::kDrain);
  EXPECT_EQ(events[8].job, 42U);
  EXPECT_TRUE(events[9].nothing);
  EXPECT_EQ(events[9].now, 1009);
}

/// Two ranks of a replica disagree: the router refuses rank 0's report as a whole and the replica
/// is lost. Replay, which knows one rank, must come to the same decisions.
TEST(Replay, FollowsAReplicaThatIsLostBecauseItsRanksDiverged) {
  const TempDir directory;
  RouterLimits limits;
  limits.max_context = 1000;
  {
    auto recorder = record_to_file(directory / "log", 1 << 20, limits, false, nullptr);
    ASSERT_TRUE(recorder.ok());
    RecordedRouter router(limits, recorder->get());
    TokenizedRequest request;
    request.id = 1;
    request.prompt = {1, 2, 3};
    request.max_tokens = 5;
    router.submit(std::move(request), 1);
    for (uint64_t job = 1; job <= 2; ++job) {
      const uint64_t epoch = router.replica_ready({job, 2, 100, 4, 64}, 2);
      const Decision decision = router.plan(3);
      ASSERT_FALSE(decision.plans.empty());
      StepResult result;
      result.epoch = epoch;
      result.step = 1;
      result.digest = 5;
      result.sampled = {{decision.plans[0].second.work[0].row, 9, 0, {}, false}};
      ASSERT_TRUE(router.apply(job, 1, result, 4).ok());
      if (job == 1) {
        result.digest = 6;
        ASSERT_FALSE(router.apply(job, 0, result, 5).ok());
        router.replica_lost(job, 5);
      } else {
        ASSERT_TRUE(router.apply(job, 0, result, 5).ok());
      }
      router.plan(6);
    }
  }
  const auto report = replay(read(directory / "log"), "log", false, nullptr);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_EQ(report->decisions, 4U);
  EXPECT_EQ(report->differing, 0U);
}

}  // namespace
}  // namespace troupe
