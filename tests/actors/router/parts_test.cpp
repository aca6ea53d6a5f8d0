#include "actors/router/step_time.h"
#include "actors/router/waiting_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <limits>
#include <map>
#include <random>
#include <vector>

namespace troupe {
namespace {

constexpr int64_t kAnyPool = std::numeric_limits<int64_t>::max();

// Milliseconds in the ranges of a real device.
double cost(const StepShape& s) {
  return 4900 + 2.0 * s.decodes + 0.04 * static_cast<double>(s.decode_context) + 24.0 * s.prefill +
         6e-4 * static_cast<double>(s.prefill_context);
}

StepShape shape(int32_t decodes, int32_t context, int32_t prefill = 0, int32_t at = 0) {
  return {decodes, int64_t{decodes} * context, prefill, int64_t{prefill} * (at + prefill / 2)};
}

TEST(StepTime, KnowsNothingAtFirst) {
  const StepTime t;
  EXPECT_FALSE(t.knows());
  EXPECT_EQ(t.predict(shape(10, 100)), 0);
}

TEST(StepTime, LearnsFromNoisySteps) {
  StepTime t;
  std::mt19937 random(1);
  std::uniform_real_distribution<double> noise(0.97, 1.03);
  const auto pick = [&](int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(random);
  };
  for (int i = 0; i < 2000; ++i) {
    const StepShape s = i % 4 == 0
                            ? shape(pick(1, 100), pick(10, 4000), pick(16, 2048), pick(0, 8000))
                            : shape(pick(1, 100), pick(10, 4000));
    t.observe(s, static_cast<uint32_t>(cost(s) * noise(random)));
  }
  ASSERT_TRUE(t.knows());
  for (const StepShape& s : {shape(1, 10), shape(64, 1024), shape(32, 500, 256, 4000)}) {
    EXPECT_NEAR(t.predict(s) / cost(s), 1, 0.1);
  }
  const StepShape decodes = shape(32, 1000);
  const int32_t n = t.chunk_within(1.25 * cost(decodes), decodes, 8000, 100000);
  EXPECT_NEAR(cost({32, 32000, n, int64_t{n} * (8000 + n / 2)}) / cost(decodes), 1.25, 0.08);
}

TEST(StepTime, RemembersPrefillThroughLongDecoding) {
  StepTime t;
  for (int i = 0; i < 50; ++i) {
    t.observe(shape(4, 100), 5000);
    t.observe(shape(4, 100, 100 + i), static_cast<uint32_t>(5000 + 24 * (100 + i)));
  }
  for (int i = 0; i < 5000; ++i) t.observe(shape(4, 200 + i), 5000);
  EXPECT_NEAR(t.predict(shape(4, 100, 500)) - t.predict(shape(4, 100)), 12000, 1500);
}

TEST(StepTime, AChunkIsNeverNegativeNorOverItsBound) {
  StepTime t;
  for (int i = 0; i < 50; ++i) {
    t.observe(shape(8, 100), 5000);
    t.observe(shape(8, 100, 64), 8000);
  }
  EXPECT_EQ(t.chunk_within(1000, shape(8, 100), 0, 512), 0);
  EXPECT_EQ(t.chunk_within(1e9, shape(8, 100), 0, 512), 512);
}

class WaitingQueueTest : public testing::Test {
 protected:
  Request& add(WaitingQueue& q, uint64_t tenant, Micros submitted, int32_t priority = 0) {
    Request& r = requests.emplace_back();
    r.id = requests.size();
    r.tenant = tenant;
    r.submitted = submitted;
    r.priority = priority;
    r.n_prompt = 10;
    r.max_tokens = 10;
    q.arrive(r);
    q.push(r);
    return r;
  }
  // Starts the head, at a cost.
  uint64_t start(WaitingQueue& q, double tokens) {
    q.first(1, kAnyPool, out);
    Request& r = *out.at(0);
    EXPECT_TRUE(q.remove(r));
    q.charge(r, tokens);
    return r.tenant;
  }
  std::deque<Request> requests;
  std::vector<Request*> out;
};

TEST_F(WaitingQueueTest, FirstComeFirstServedWithinATenant) {
  WaitingQueue q({});
  Request& b = add(q, 1, 20);
  Request& a = add(q, 1, 10);
  q.first(9, kAnyPool, out);
  EXPECT_THAT(out, testing::ElementsAre(&a, &b));
  EXPECT_TRUE(q.remove(a));
  EXPECT_FALSE(q.remove(a));
  EXPECT_EQ(q.size(), 1);
}

TEST_F(WaitingQueueTest, PriorityComesFirstThenWhoRanAlready) {
  WaitingQueue q({});
  Request& late = add(q, 1, 10, 5);
  Request& soon = add(q, 2, 20, -1);
  Request& normal = add(q, 3, 5, 0);
  Request& resumed = requests.emplace_back();
  resumed.id = 99;
  resumed.started = true;
  q.arrive(resumed);
  q.push(resumed);
  q.first(9, kAnyPool, out);
  EXPECT_THAT(out, testing::ElementsAre(&soon, &resumed, &normal, &late));
  EXPECT_EQ(q.resumed(), 1);
}

TEST_F(WaitingQueueTest, SkipsWhatNoReplicaCanHold) {
  WaitingQueue q({});
  add(q, 1, 1).max_tokens = 1000;
  Request& small = add(q, 1, 2);
  q.first(9, 100, out);
  EXPECT_THAT(out, testing::ElementsAre(&small));
}

TEST_F(WaitingQueueTest, ACrowdDoesNotStarveATenant) {
  WaitingQueue q({});
  for (int i = 0; i < 100; ++i) add(q, 1, i);
  for (int i = 0; i < 10; ++i) add(q, 2, 1000 + i);
  std::map<uint64_t, int> served;
  for (int i = 0; i < 20; ++i) ++served[start(q, 100)];
  EXPECT_EQ(served[1], 10);
  EXPECT_EQ(served[2], 10);
  // Work conserving: when the second wants nothing more the first gets everything.
  for (int i = 0; i < 20; ++i) EXPECT_EQ(start(q, 100), 1U);
}

TEST_F(WaitingQueueTest, WeightsDivideTheService) {
  WaitingQueue q({{1, 3.0}});
  for (int i = 0; i < 100; ++i) add(q, 1, i);
  for (int i = 0; i < 100; ++i) add(q, 2, i);
  std::map<uint64_t, int> served;
  for (int i = 0; i < 80; ++i) ++served[start(q, 100)];
  EXPECT_NEAR(served[1], 60, 2);
}

TEST_F(WaitingQueueTest, IdleTimeEarnsNoCredit) {
  WaitingQueue q({});
  for (int i = 0; i < 100; ++i) add(q, 1, i);
  for (int i = 0; i < 50; ++i) start(q, 100);
  for (int i = 0; i < 50; ++i) add(q, 2, 1000 + i);  // was away all the time
  std::map<uint64_t, int> served;
  for (int i = 0; i < 20; ++i) ++served[start(q, 100)];
  EXPECT_NEAR(served[2], 10, 1);
}

TEST_F(WaitingQueueTest, WhatARequestReallyCostIsSettled) {
  WaitingQueue q({});
  for (int i = 0; i < 20; ++i) add(q, 1, i);
  for (int i = 0; i < 20; ++i) add(q, 2, i);
  EXPECT_EQ(start(q, 100), 1U);
  EXPECT_EQ(start(q, 100), 2U);
  q.settle(requests[0], 800);  // nine times as long as expected
  for (int i = 0; i < 8; ++i) EXPECT_EQ(start(q, 100), 2U);
}

TEST_F(WaitingQueueTest, TenantsLeaveNothingBehind) {
  WaitingQueue q({});
  for (int i = 0; i < 1000; ++i) {
    Request& r = add(q, static_cast<uint64_t>(i), i);
    q.remove(r);
    q.charge(r, 5);
    q.depart(r);
  }
  EXPECT_EQ(q.tenants(), 0U);
  EXPECT_TRUE(q.empty());
}

}  // namespace
}  // namespace troupe
