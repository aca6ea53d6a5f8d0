#include "actors/rank_worker.h"
#include "actors/report_batch.h"

#include "gpu/base/check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace troupe {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

StepResult result_of(uint64_t step) {
  StepResult result;
  result.step = step;
  result.sampled.emplace_back();
  return result;
}

std::vector<uint64_t> steps_of(const std::vector<StepResult>& report) {
  std::vector<uint64_t> steps;
  for (const StepResult& result : report) steps.push_back(result.step);
  return steps;
}

TEST(ReportBatch, TokensWaitUntilTheRouterMustPlan) {
  ReportBatch batch(0);
  EXPECT_THAT(steps_of(batch.add(result_of(1), 1)), ElementsAre(1)) << "two plans in flight";
  EXPECT_THAT(batch.add(result_of(2), 4), IsEmpty());
  EXPECT_THAT(batch.add(result_of(3), 2), IsEmpty());
  const auto report = batch.add(result_of(4), 1);
  EXPECT_THAT(steps_of(report), ElementsAre(2, 3, 4));
  EXPECT_EQ(report[0].sampled.size(), 1U);
}

TEST(ReportBatch, DigestsWaitForEachOtherButNotInARankThatIsIdle) {
  ReportBatch batch(1);
  for (uint64_t step = 1; step < ReportBatch::kTogether; ++step) {
    EXPECT_THAT(batch.add(result_of(step), 1), IsEmpty());
  }
  const auto full = batch.add(result_of(ReportBatch::kTogether), 1);
  ASSERT_EQ(full.size(), ReportBatch::kTogether);
  EXPECT_THAT(full[0].sampled, IsEmpty()) << "rank 0 sends them";
  EXPECT_THAT(batch.add(result_of(9), 1), IsEmpty());
  EXPECT_THAT(steps_of(batch.add(result_of(10), 0)), ElementsAre(9, 10));
}

/// Ends steps as soon as they are enqueued.
class InstantExecutor final : public Executor {
 public:
  void enqueue(const StepPlan& plan) override { steps_.push_back(plan.step); }
  [[nodiscard]] bool ready() const override { return !steps_.empty(); }
  StepResult collect() override {
    StepResult result = result_of(steps_.front());
    steps_.pop_front();
    return result;
  }
  void reset() override {}
  [[nodiscard]] int32_t n_slots() const override { return 1; }
  [[nodiscard]] Memory memory() const override { return {}; }

 private:
  std::deque<uint64_t> steps_;
};

// What a rank that is not the first holds back has gone out when it has nothing more to do.
TEST(RankWorker, ReportsEverythingBeforeItIsIdle) {
  ReportBatch batch(1);
  std::vector<uint64_t> reported;
  std::vector<size_t> ahead;
  std::promise<void> all;
  RankWorker::Callbacks callbacks;
  callbacks.done = [&](StepResult&& result, size_t left) {
    ahead.push_back(left);
    for (const StepResult& r : batch.add(std::move(result), left)) reported.push_back(r.step);
    if (reported.size() == 5) all.set_value();
  };
  callbacks.failed = [](const std::string& what) { FAIL() << what; };
  RankWorker worker(std::move(callbacks));
  ASSERT_TRUE(worker
                  .start([]() -> Result<std::unique_ptr<Executor>> {
                    return std::unique_ptr<Executor>(std::make_unique<InstantExecutor>());
                  })
                  .ok());
  std::vector<StepPlan> plans(5);
  for (size_t i = 0; i < plans.size(); ++i) plans[i].step = i + 1;
  worker.push(std::move(plans));
  all.get_future().wait();
  worker.stop();
  EXPECT_THAT(ahead, ElementsAre(4, 3, 2, 1, 0));
  EXPECT_THAT(reported, ElementsAre(1, 2, 3, 4, 5));
}

/// Runs steps until one is said to fail.
class FailingExecutor final : public Executor {
 public:
  FailingExecutor(uint64_t step, bool at_enqueue) : step_(step), at_enqueue_(at_enqueue) {}

  void enqueue(const StepPlan& plan) override {
    if (at_enqueue_ && plan.step == step_) fail_now();
    steps_.push_back(plan.step);
  }
  [[nodiscard]] bool ready() const override { return !steps_.empty(); }
  StepResult collect() override {
    StepResult result;
    result.step = steps_.front();
    steps_.erase(steps_.begin());
    if (!at_enqueue_ && result.step == step_) fail_now();
    return result;
  }
  void reset() override {}
  [[nodiscard]] int32_t n_slots() const override { return 64; }
  [[nodiscard]] Memory memory() const override { return {}; }

 private:
  [[noreturn]] void fail_now() const {
    throw DeviceError("step " + std::to_string(step_) + " failed on the device: out of order");
  }
  uint64_t step_;
  bool at_enqueue_;
  std::vector<uint64_t> steps_;
};

/// A device that fails is reported once, in its own words; the steps before it are reported, none
/// after it.
TEST(RankWorker, ReportsAFailedStepOnceAndStops) {
  for (const bool at_enqueue : {false, true}) {
    std::vector<uint64_t> done;
    std::promise<std::string> failed;  // a second call would throw
    RankWorker worker({[&](StepResult&& result, size_t) { done.push_back(result.step); },
                       [&](const std::string& what) { failed.set_value(what); }});
    ASSERT_TRUE(worker
                    .start([&]() -> Result<std::unique_ptr<Executor>> {
                      return std::unique_ptr<Executor>(
                          std::make_unique<FailingExecutor>(3, at_enqueue));
                    })
                    .ok());
    for (uint64_t step = 1; step <= 5; ++step) {
      StepPlan plan;
      plan.step = step;
      worker.push({plan});
    }
    EXPECT_EQ(failed.get_future().get(), "step 3 failed on the device: out of order");
    worker.stop();
    ASSERT_LE(done.size(), 2U);
    for (size_t i = 0; i < done.size(); ++i) EXPECT_EQ(done[i], i + 1);
    if (!at_enqueue) {
      EXPECT_EQ(done.size(), 2U);
    }
  }
}

TEST(RankWorker, AStartThatFailsIsAnError) {
  RankWorker worker({[](StepResult&&, size_t) {}, [](const std::string&) { FAIL(); }});
  const Status refused = worker.start([]() -> Result<std::unique_ptr<Executor>> {
    return fail(ErrorCode::kOutOfMemory, "needs 5, has 4");
  });
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kOutOfMemory);
  RankWorker other({[](StepResult&&, size_t) {}, [](const std::string&) { FAIL(); }});
  const Status thrown = other.start(
      []() -> Result<std::unique_ptr<Executor>> { throw DeviceError("cudaMalloc failed"); });
  ASSERT_FALSE(thrown.ok());
  EXPECT_EQ(thrown.error().message, "cudaMalloc failed");
}

}  // namespace
}  // namespace troupe
