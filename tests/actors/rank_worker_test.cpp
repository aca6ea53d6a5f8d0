#include "actors/rank_worker.h"

#include "gpu/base/check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace troupe {
namespace {

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
    RankWorker worker({[&](StepResult&& result, bool) { done.push_back(result.step); },
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
      worker.push(std::move(plan));
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
  RankWorker worker({[](StepResult&&, bool) {}, [](const std::string&) { FAIL(); }});
  const Status refused = worker.start([]() -> Result<std::unique_ptr<Executor>> {
    return fail(ErrorCode::kOutOfMemory, "needs 5, has 4");
  });
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kOutOfMemory);
  RankWorker other({[](StepResult&&, bool) {}, [](const std::string&) { FAIL(); }});
  const Status thrown = other.start(
      []() -> Result<std::unique_ptr<Executor>> { throw DeviceError("cudaMalloc failed"); });
  ASSERT_FALSE(thrown.ok());
  EXPECT_EQ(thrown.error().message, "cudaMalloc failed");
}

}  // namespace
}  // namespace troupe
