// What deciding costs: allocations are counted by an operator new of this program's own.

#include "tests/bench/router_loop.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

namespace {
std::atomic<int64_t> allocations{0};
}  // namespace

void* operator new(size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* p = std::malloc(size)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace troupe {
namespace {

constexpr int32_t kRows = 256;

// A router with kRows rows that decode and nothing else to do.
class SteadyDecoding {
 public:
  explicit SteadyDecoding(int32_t n_queued)
      : router_({.max_context = 8192, .max_queue = 20'000, .max_step_tokens = 2048}) {
    router_.replica_ready({1, 1, 2'000'000, kRows, 2048}, now_);
    for (int32_t i = 0; i < kRows + n_queued; ++i) {
      TokenizedRequest r;
      r.id = static_cast<RequestId>(i + 1);
      r.prompt.assign(100, 5);
      r.prompt[0] = 100 + i;
      r.max_tokens = 4000;
      r.submitted = now_;
      router_.submit(std::move(r), now_);
    }
    for (int i = 0; i < 100; ++i) step();
  }
  // Allocations inside plan and apply.
  int64_t step() {
    now_ += 5000;
    int64_t before = allocations;
    Decision decision = router_.plan(now_);
    int64_t spent = allocations - before;
    for (auto& [job, plan] : decision.plans) {
      StepResult result;
      result.epoch = plan.epoch;
      result.step = plan.step;
      result.timings.compute_us = 5000;
      for (const RowWork& work : plan.work) {
        if (!work.sample) continue;
        SampledToken sampled;
        sampled.row = work.row;
        sampled.token = 3;
        result.sampled.push_back(sampled);
      }
      results_.push_back(std::move(result));
    }
    const StepResult result = std::move(results_.front());
    results_.pop_front();
    before = allocations;
    EXPECT_TRUE(router_.apply(1, 0, result, now_).ok());
    return spent + allocations - before;
  }
  [[nodiscard]] EngineStats stats() const { return router_.stats(); }

 private:
  Micros now_ = 1;
  Router router_;
  std::deque<StepResult> results_;
};

TEST(RouterCost, NoAllocationPerToken) {
  SteadyDecoding router(0);
  ASSERT_EQ(router.stats().running, kRows);
  const uint64_t tokens = router.stats().output_tokens;
  int64_t spent = 0;
  for (int i = 0; i < 1000; ++i) spent += router.step();
  EXPECT_EQ(router.stats().output_tokens - tokens, 1000U * kRows);
  // A few per step (the plan's own lists), and the doubling of sequences that grow: well below one
  // for ten tokens.
  EXPECT_LT(spent / 1000, 24);
}

TEST(RouterCost, ALongQueueDoesNotAllocateEither) {
  SteadyDecoding router(10'000);
  ASSERT_EQ(router.stats().queued, 10'000);
  int64_t spent = 0;
  for (int i = 0; i < 1000; ++i) spent += router.step();
  EXPECT_LT(spent / 1000, 24);
}

TEST(RouterCost, SharedPrefixesAreComputedOnceInTheFirstWaveToo) {
  RouterLimits limits{.max_context = 8192, .max_queue = 1000, .max_step_tokens = 512};
  bench::RouterLoop loop(limits, {1, 1, 60'000, 64, 512}, bench::StepCost());
  RequestId id = 0;
  for (int32_t i = 0; i < 8 * 16; ++i) {
    std::vector<int32_t> prompt(1024 + 64, 7);
    prompt[0] = 1000 + i % 8;
    prompt[1024] = 5000 + i;
    loop.submit(++id, {1088, 8, 16}, std::move(prompt));
  }
  loop.run();
  const int64_t least = 8 * (1024 + 16 * 64);
  EXPECT_LE(static_cast<double>(loop.report.prefilled), 1.05 * static_cast<double>(least));
  EXPECT_GE(loop.report.prefilled, least);
}

// Decoding streams beside a long prompt: no step may take much longer than without it.
TEST(RouterCost, ALongPromptDoesNotStallStreams) {
  RouterLimits limits{.max_context = 40'000, .max_queue = 100, .max_step_tokens = 2048};
  limits.decode_slowdown = 1.25;
  const ReplicaInfo replica{1, 1, 100'000, 64, 2048};
  bench::RouterLoop loop(limits, replica, bench::StepCost());
  bench::RouterLoop quiet(limits, replica, bench::StepCost());  // the same without the long prompt
  for (bench::RouterLoop* each : {&loop, &quiet}) {
    for (RequestId id = 1; id <= 16; ++id) {
      std::vector<int32_t> prompt(500, 5);
      prompt[0] = 100 + static_cast<int32_t>(id);
      each->submit(id, {500, 3000, 3000}, std::move(prompt));
    }
    for (int i = 0; i < 200; ++i) each->step();
  }
  const auto step_time = [](bench::RouterLoop& each) {
    const Micros before = each.now();
    EXPECT_TRUE(each.step());
    return static_cast<double>(each.now() - before);
  };
  loop.submit(99, {20'000, 1, 1}, std::vector<int32_t>(20'000, 9));
  int steps = 0;
  while (loop.router.stats().finished_length + loop.router.stats().finished_stop == 0) {
    EXPECT_LE(step_time(loop), 1.3 * step_time(quiet)) << "step " << steps;
    ASSERT_LT(++steps, 1500);
  }
  EXPECT_GT(steps, 100);
}

}  // namespace
}  // namespace troupe
