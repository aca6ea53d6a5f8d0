// Properties over generated histories; a failing one is shrunk to its shortest form.

#include "actors/router/prefix_cache.h"
#include "actors/router/slot_allocator.h"
#include "tests/support/router_world.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace troupe {
namespace {

struct Event {
  int kind = 0;
  int a = 0;
  int b = 0;
};

void showValue(const Event& e, std::ostream& os) {  // NOLINT: the name is RapidCheck's
  os << e.kind << ":" << e.a << ":" << e.b;
}

}  // namespace
}  // namespace troupe

namespace rc {
template <>
struct Arbitrary<troupe::Event> {
  static Gen<troupe::Event> arbitrary() {
    return gen::build<troupe::Event>(gen::set(&troupe::Event::kind, gen::inRange(0, 12)),
                                     gen::set(&troupe::Event::a, gen::inRange(0, 40)),
                                     gen::set(&troupe::Event::b, gen::inRange(1, 60)));
  }
};
}  // namespace rc

namespace troupe {
namespace {

// Plays events; returns the ids that were cancelled.
std::set<RequestId> play(test::RouterWorld& w, const std::vector<Event>& events) {
  std::set<RequestId> cancelled;
  RequestId next_id = 1;
  uint64_t next_job = 1;
  w.add_replica(next_job++, 150, 4, 32);
  for (const Event& e : events) {
    switch (e.kind) {
      case 0:
      case 1:
      case 2: w.submit(next_id++, test::prompt_of(1 + e.a, e.b % 3), e.b); break;
      case 3: {
        const auto id = static_cast<RequestId>(1 + e.a);
        if (!w.ends.contains(id)) cancelled.insert(id);
        w.router.cancel(id, ++w.now);
        w.plan();
        break;
      }
      case 4:
        if (e.a < 10 && !w.replicas.empty()) w.lose_replica(w.replicas.begin()->first);
        break;
      case 5:
        if (w.replicas.size() < 2) {
          w.add_replica(next_job++, 100 + e.b, 1 + e.a % 5, 4 + e.b);
          w.plan();
        }
        break;
      case 6:
        w.router.reset_prefix_cache();
        w.plan();
        break;
      default:
        if (!w.replicas.empty())
          w.deliver(w.replicas.rbegin()->first, 1 + static_cast<size_t>(e.b % 4));
    }
  }
  w.add_replica(next_job, 400);
  w.plan();
  w.run_to_end();
  return cancelled;
}

// Invariants 1, 2, 4, 5, 6, 8 and 11: RouterWorld checks the books after every event.
RC_GTEST_PROP(RouterProperty, EveryRequestGetsTheTokensItWouldHaveGotAlone,
              (const std::vector<Event>& events)) {
  test::RouterWorld w(
      {.max_context = 4096, .max_queue = 1000, .plan_ahead = *rc::gen::element<Micros>(0, 25'000)});
  w.compute_us = *rc::gen::element<uint32_t>(0, 4000);
  const std::set<RequestId> cancelled = play(w, events);
  RC_ASSERT(w.faults.empty());
  for (const auto& [id, prompt] : w.prompts) {
    RC_ASSERT(cancelled.contains(id) || w.complete(id));
    RC_ASSERT(w.ends.contains(id));
  }
  RC_ASSERT(w.empty());
}

// Invariant 7: after a cancel at most the plans in flight name the row, then its slots are free.
RC_GTEST_PROP(RouterProperty, ACancelledRequestIsGoneWhenItsPlansHaveReturned, ()) {
  test::RouterWorld w({.max_context = 4096,
                       .max_queue = 100,
                       .plan_ahead = *rc::gen::element<Micros>(0, 25'000),
                       .prefix_cache = false});
  w.compute_us = 4000;
  w.add_replica(1, 400);
  const auto n = *rc::gen::inRange(1, 100);
  w.submit(1, test::prompt_of(n, 1), 200);
  for (int i = *rc::gen::inRange(0, 30); i > 0; --i) w.deliver(1);
  w.router.cancel(1, ++w.now);
  w.plan();
  w.deliver(1, w.results[1].size());
  RC_ASSERT(w.results[1].empty());
  RC_ASSERT(w.router.stats().slots_used == 0);
  RC_ASSERT(w.faults.empty());
}

// Invariant 9: news of another epoch or an unknown job changes a counter and nothing else.
RC_GTEST_PROP(RouterProperty, OldNewsChangesOnlyACounter, ()) {
  test::RouterWorld w;
  w.add_replica(1, 400);
  w.submit(1, test::prompt_of(20, 1), 50);
  StepResult stale = w.results[1].front();
  stale.epoch = static_cast<uint64_t>(*rc::gen::inRange(2, 100));
  const auto job = static_cast<uint64_t>(*rc::gen::inRange(1, 4));
  stale.step = static_cast<uint64_t>(*rc::gen::inRange(0, 10));
  const EngineStats before = w.router.stats();
  RC_ASSERT(w.router.apply(job, 0, stale, ++w.now).ok());
  const EngineStats after = w.router.stats();
  RC_ASSERT(after.stale_messages == before.stale_messages + 1);
  RC_ASSERT(after.slots_used == before.slots_used && after.steps == before.steps);
  w.plan();
  w.run_to_end();
  RC_ASSERT(w.complete(1));
}

}  // namespace
}  // namespace troupe
