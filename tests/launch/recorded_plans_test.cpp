#include "launch/recorded_plans.h"

#include "actors/log_file.h"
#include "actors/router/recorded_router.h"
#include "tests/support/temp_dir.h"

#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <utility>
#include <vector>

namespace troupe {
namespace {

constexpr Micros kStep = 1000;

/// A recorded router whose replicas answer a plan after kStep each, one behind the other.
class Service {
 public:
  explicit Service(const std::string& path)
      : recorder_(std::move(*record_to_file(path, 1 << 20, limits(), true, [](auto&) {}))),
        router_(limits(), recorder_.get()) {}

  void replica(uint64_t job) { router_.replica_ready({job, 1, 256, 4, 16}, now_); }

  /// Requests of 20 prompt and `n_out` output tokens, until they have ended.
  void serve(const std::vector<RequestId>& ids, int32_t n_out) {
    for (const RequestId id : ids) {
      TokenizedRequest r;
      r.id = id;
      r.prompt.assign(20, static_cast<int32_t>(id));
      r.max_tokens = n_out;
      r.submitted = now_;
      router_.submit(std::move(r), now_);
    }
    for (plan(); !flying_.empty(); plan()) {
      const auto [job, plan] = std::move(flying_.front());
      flying_.pop_front();
      now_ += kStep;
      StepResult result;
      result.epoch = plan.epoch;
      result.step = plan.step;
      result.timings.compute_us = kStep;
      for (const RowWork& work : plan.work) {
        if (!work.sample) continue;
        SampledToken token;
        token.row = work.row;
        token.token = 7;
        result.sampled.push_back(std::move(token));
      }
      ASSERT_TRUE(router_.apply(job, 0, result, now_).ok());
    }
  }
  void pass(Micros time) { now_ += time; }

  std::vector<StepPlan> plans;  // all, in order

 private:
  static RouterLimits limits() {
    RouterLimits limits;
    limits.max_context = 64;
    limits.max_step_tokens = 16;
    return limits;
  }
  void plan() {
    for (auto& [job, plan] : router_.plan(now_).plans) {
      plans.push_back(plan);
      flying_.emplace_back(job, std::move(plan));
    }
  }

  std::unique_ptr<Recorder> recorder_;
  RecordedRouter router_;
  Micros now_ = 1;
  std::deque<std::pair<uint64_t, StepPlan>> flying_;
};

TEST(RecordedPlans, AreThoseThatWereServedCutWhereNothingWasToDo) {
  const test::TempDir folder;
  const std::string path = folder / "log";
  std::vector<StepPlan> served;
  size_t first = 0;
  {
    Service service(path);
    service.replica(1);
    service.serve({1, 2, 3}, 5);
    first = service.plans.size();
    service.pass(50'000);
    service.serve({4}, 2);
    served = service.plans;
  }
  const auto loads = read_recorded_loads(path);
  ASSERT_TRUE(loads) << loads.error().message;
  ASSERT_EQ(loads->size(), 2U);
  EXPECT_EQ((*loads)[0].plans.size(), first);
  EXPECT_DOUBLE_EQ((*loads)[0].seconds, static_cast<double>(first) * kStep * 1e-6);
  std::vector<StepPlan> read = (*loads)[0].plans;
  read.insert(read.end(), (*loads)[1].plans.begin(), (*loads)[1].plans.end());
  ASSERT_EQ(read.size(), served.size());
  for (size_t i = 0; i < read.size(); ++i) {
    EXPECT_EQ(read[i].step, served[i].step);
    EXPECT_EQ(read[i].tokens, served[i].tokens);
    EXPECT_EQ(read[i].slots, served[i].slots);
    EXPECT_EQ(read[i].closed, served[i].closed);
    EXPECT_EQ(read[i].opened.size(), served[i].opened.size());
  }
}

TEST(RecordedPlans, OfTwoReplicasAreRefused) {
  const test::TempDir folder;
  const std::string path = folder / "log";
  {
    Service service(path);
    service.replica(1);
    service.replica(2);
    service.serve({1, 2, 3, 4}, 3);
  }
  const auto loads = read_recorded_loads(path);
  ASSERT_FALSE(loads);
  EXPECT_NE(loads.error().message.find("more than one replica"), std::string::npos);
}

TEST(RecordedPlans, OfNoLogAreRefused) {
  const test::TempDir folder;
  EXPECT_FALSE(read_recorded_loads(folder / "none"));
}

}  // namespace
}  // namespace troupe
