#pragma once

#include "tests/bench/router_loop.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <random>
#include <utility>
#include <vector>

/// Goodput under overload: requests a second that met their targets for the first and for the
/// further tokens, when the router knows the targets and when it does not.
namespace troupe::bench {

/// Chat-like requests, Poisson arrivals. `known`: the router is told the targets.
struct Load {
  double rate = 0;  // a second, 0 = all at once
  int32_t requests = 0;
  Micros ttft = 0, tpot = 0;
  bool known = false;
};
struct Served {
  double seconds = 0;
  int32_t met = 0, refused = 0, finished = 0;
};

inline Served serve(const Load& load, uint32_t seed) {
  std::mt19937 random(seed);
  std::exponential_distribution<double> pause(load.rate > 0 ? load.rate * 1e-6 : 1);
  const auto pick = [&](int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(random);
  };
  RouterLimits limits;
  limits.max_context = 16384;
  limits.max_queue = 20'000;
  limits.max_step_tokens = 2048;
  limits.decode_slowdown = 1.25;
  RouterLoop loop(limits, {1, 1, 120'000, 256, 2048}, StepCost());
  struct Seen {
    Micros submitted = 0, first = 0, last = 0;
    int32_t tokens = 0;
  };
  std::vector<Seen> seen(static_cast<size_t>(load.requests) + 1);
  Served out;
  loop.on_update = [&](const RequestUpdate& u, Micros now) {
    Seen& s = seen[u.id];
    if (!u.tokens.empty()) {
      if (s.tokens++ == 0) s.first = now;
      s.last = now;
    }
    if (u.kind != RequestUpdate::Kind::kFinished) return;
    if (u.reason == FinishReason::kError) {
      ++out.refused;
      return;
    }
    ++out.finished;
    const bool met = s.tokens > 0 && s.first - s.submitted <= load.ttft &&
                     s.last - s.first <= load.tpot * std::max(0, s.tokens - 1);
    if (met) ++out.met;
  };
  double at = 0;
  for (int32_t i = 1; i <= load.requests; ++i) {
    if (load.rate > 0) at += pause(random);
    while (!loop.wait_until(at)) loop.step();
    const Job job{pick(100, 1500), pick(50, 600), 1024};
    std::vector<int32_t> prompt(static_cast<size_t>(job.input), 5);
    prompt[0] = 100 + i;
    TokenizedRequest r;
    if (load.known) {
      r.ttft_target = load.ttft;
      r.tpot_target = load.tpot;
    }
    const auto id = static_cast<RequestId>(i);
    seen[id].submitted = loop.now();
    loop.submit(id, job, std::move(prompt), std::move(r));
    if (load.rate > 0) loop.plan();
  }
  loop.run();
  out.seconds = loop.report.seconds;
  return out;
}

inline void goodput(bool quick) {
  const int32_t n = quick ? 300 : 3000;
  Load load{0, n, 2'000'000, 30'000, false};
  const double capacity = n / serve(load, 1).seconds;
  for (const double part : {0.8, 1.2, 1.5}) {
    for (const uint32_t seed : {11U, 12U, 13U}) {
      load.rate = part * capacity;
      double each[2] = {};
      for (const bool known : {false, true}) {
        load.known = known;
        const Served s = serve(load, seed);
        each[known ? 1 : 0] = s.met / s.seconds;
        std::printf(R"({"bench":"router_goodput","load":%.1f,"seed":%u,"targets_known":%s,)"
                    R"("goodput_per_s":%.2f,"of_capacity":%.3f,"met":%d,"refused":%d,)"
                    R"("served_late":%d})"
                    "\n",
                    part, seed, known ? "true" : "false", s.met / s.seconds,
                    s.met / s.seconds / capacity, s.met, s.refused, s.finished - s.met);
      }
      std::printf(
          R"({"bench":"router_goodput_gain","load":%.1f,"seed":%u,"with_over_without":%.2f})"
          "\n",
          part, seed, each[1] / std::max(1e-9, each[0]));
      if (quick) break;
    }
  }
}

}  // namespace troupe::bench
