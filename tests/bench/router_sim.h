#pragma once

#include "actors/router/router.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

/// What the router benchmarks share: workloads, the cost of a step, and the loop that runs the real
/// Router against it in virtual time.
namespace troupe::bench {

/// Microseconds of a step. Llama-3-8B in bf16 on one H200: 4.9 ms for one row, 7.5 ms for 64 rows
/// and 10.2 ms for 128 rows at 1,000 tokens each, first token after 2,048 tokens 52.6 ms and after
/// 8,000 tokens 214 ms (vLLM, measured).
struct StepCost {
  double base = 4850;
  double per_row = 2;
  double per_context = 0.039;         // token that a decode attends to
  double per_prefill = 23;            // token
  double per_prefill_context = 6e-4;  // token x token that it attends to

  [[nodiscard]] double operator()(const StepShape& s) const {
    return base + per_row * s.decodes + per_context * static_cast<double>(s.decode_context) +
           per_prefill * s.prefill + per_prefill_context * static_cast<double>(s.prefill_context);
  }
};

struct Job {
  int32_t input = 0;
  int32_t output = 0;
  int32_t max_tokens = 0;
};

struct Workload {
  std::string name;
  std::vector<Job> jobs;
};

inline Workload uniform(const std::string& name, int32_t in_low, int32_t in_high, int32_t out_low,
                        int32_t out_high, int32_t n, uint32_t seed) {
  std::mt19937 random(seed);
  Workload w{name, {}};
  for (int32_t i = 0; i < n; ++i) {
    Job job;
    job.input = std::uniform_int_distribution<int32_t>(in_low, in_high)(random);
    job.output = std::uniform_int_distribution<int32_t>(out_low, out_high)(random);
    job.max_tokens = out_high;
    w.jobs.push_back(job);
  }
  return w;
}

/// A quantile function through given points, linear in between.
inline int32_t quantile(const std::vector<std::pair<double, double>>& points, double u) {
  for (size_t i = 1; i < points.size(); ++i) {
    if (u > points[i].first) continue;
    const auto [u0, x0] = points[i - 1];
    const auto [u1, x1] = points[i];
    return static_cast<int32_t>(x0 + (x1 - x0) * (u - u0) / (u1 - u0));
  }
  return static_cast<int32_t>(points.back().second);
}

/// The ShareGPT-o1 set by its quantiles: input mean 381, p50 209, p99 2,594; output mean 2,160,
/// p50 1,954, p90 3,872, p99 6,428, largest 10,935; max_tokens 8,192.
inline Workload heavy_tail(int32_t n, uint32_t seed) {
  const std::vector<std::pair<double, double>> input = {{0, 4},       {0.25, 70}, {0.5, 209},
                                                        {0.75, 400},  {0.9, 780}, {0.97, 1500},
                                                        {0.99, 2594}, {1, 4500}};
  const std::vector<std::pair<double, double>> output = {
      {0, 20}, {0.25, 1130}, {0.5, 1954}, {0.75, 2830}, {0.9, 3872}, {0.99, 6428}, {1, 10935}};
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> u(0, 1);
  Workload w{"heavy tail", {}};
  for (int32_t i = 0; i < n; ++i) {
    Job job;
    job.input = std::max(1, quantile(input, u(random)));
    job.output = std::clamp(quantile(output, u(random)), 1, 8192);
    job.max_tokens = 8192;
    w.jobs.push_back(job);
  }
  return w;
}

inline std::vector<Workload> policy_workloads(int32_t n, uint32_t seed) {
  return {uniform("in 32-4k, out 2-4k", 32, 4096, 2048, 4096, n, seed),
          uniform("in 3-5k, out 3-5k", 3072, 5120, 3072, 5120, n, seed + 1),
          uniform("in 2-4k, out 32-4k", 2048, 4096, 32, 4096, n, seed + 2),
          heavy_tail(n, seed + 3)};
}

struct SimReport {
  double seconds = 0;
  int64_t steps = 0;
  int64_t evictions = 0;
  int64_t computed = 0;  // tokens, decodes included
  int64_t prefilled = 0;
  double pool_use = 0;  // mean over steps
};

}  // namespace troupe::bench
