#pragma once

#include "gpu/cuda/executor.h"
#include "gpu/step.h"
#include "tests/support/step_script.h"
#include "tests/support/tiny_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

/// Several ranks against one: the models, the steps and what counts as equal.
namespace troupe::test {

constexpr int32_t kTpSlots = 2048;

struct TpCase {
  const char* architecture;
  int32_t heads;
  int32_t kv_heads;
  int32_t ranks;
  bool fp8;
};

/// Logits have a standard deviation near one. The vocabulary is no multiple of a slice.
inline TinyModel tp_model(const TpCase& c) {
  TinyModel m;
  m.architecture = c.architecture;
  m.layers = 3;
  m.hidden = 256;
  m.heads = c.heads;
  m.kv_heads = c.kv_heads;
  m.head_dim = 64;
  m.ffn = 384;
  m.vocab = 1000;
  m.context = 512;
  m.tied = false;
  return m;
}

inline ExecutorOptions tp_options(bool fp8) {
  ExecutorOptions o;
  o.device = DeviceKind::kCuda;
  o.n_slots = kTpSlots;
  o.max_rows = 12;
  o.max_step_tokens = 128;
  o.fp8_weights = fp8;
  return o;
}

inline SamplingParams tp_sampling(float temperature, uint64_t seed) {
  SamplingParams p;
  p.temperature = temperature;
  p.seed = seed;
  p.n_logprobs = 10;
  return p;
}

/// Prefill of three lengths, then steps of one token a row, all given: ranks round differently from
/// one, and tokens of its own would take each its own way.
inline std::vector<StepPlan> given_tokens() {
  StepScript script(kTpSlots, 3);
  std::mt19937 random(5);
  std::vector<int32_t> text(200);
  for (int32_t& t : text) t = static_cast<int32_t>(random() % 1000);
  const std::span<const int32_t> all(text);
  for (int32_t row = 0; row < 3; ++row) {
    const int32_t n = 1 + row * 40;
    script.begin_step();
    script.open(row, n, tp_sampling(0.0F, 1));
    script.feed(row, all.first(static_cast<size_t>(n)), true);
  }
  for (size_t step = 0; step < 40; ++step) {
    script.begin_step();
    for (size_t row = 0; row < 3; ++row)
      script.feed(static_cast<int32_t>(row), all.subspan(100 + step + 20 * row, 1), true);
  }
  return script.plans();
}

/// Rows that go on from what they sampled.
inline std::vector<StepPlan> free_running(float temperature) {
  StepScript script(kTpSlots, 4);
  std::mt19937 random(6);
  for (int32_t row = 0; row < 4; ++row) {
    std::vector<int32_t> text(static_cast<size_t>(5 + 17 * row));
    for (int32_t& t : text) t = static_cast<int32_t>(random() % 1000);
    script.begin_step();
    for (int32_t before = 0; before < row; ++before) script.decode(before);
    script.open(row, static_cast<int32_t>(text.size()),
                tp_sampling(temperature, static_cast<uint64_t>(row)));
    script.feed(row, text, true);
  }
  for (int32_t step = 0; step < 24; ++step) {
    script.begin_step();
    for (int32_t row = 0; row < 4; ++row) script.decode(row);
  }
  return script.plans();
}

inline std::vector<StepResult> run_all(Executor& executor, const std::vector<StepPlan>& plans) {
  std::vector<StepResult> results;
  results.reserve(plans.size());
  for (const StepPlan& plan : plans) results.push_back(executor.run(plan));
  return results;
}

/// The same best token on 95 % of the samples (bf16), and log probabilities of the ten best whose
/// root mean square distance is within the data type's: bf16 3e-2, as against the exact CPU. For
/// fp8 the inputs of o and down are scaled by the largest value of each rank's part, so they round
/// anew on every rank: e4m3's 2^-4 / sqrt(3) * 0.72 = 0.026 a product, 2 products of 3 layers in
/// both runs: 0.026 * sqrt(12) = 0.09, twice that allowed.
inline void expect_close(const std::vector<StepResult>& one, const std::vector<StepResult>& many,
                         bool fp8) {
  ASSERT_EQ(one.size(), many.size());
  int32_t same = 0;
  int32_t all = 0;
  int32_t compared = 0;
  double squares = 0.0;
  for (size_t s = 0; s < one.size(); ++s) {
    ASSERT_EQ(one[s].sampled.size(), many[s].sampled.size()) << "step " << s;
    for (size_t i = 0; i < one[s].sampled.size(); ++i, ++all) {
      const SampledToken& x = one[s].sampled[i];
      const SampledToken& y = many[s].sampled[i];
      ASSERT_EQ(x.row, y.row);
      ASSERT_FALSE(x.failed || y.failed) << "step " << s;
      same += x.token == y.token ? 1 : 0;
      std::map<int32_t, float> by_token;
      for (const TokenLogprob& t : y.top) by_token[t.token] = t.logprob;
      for (const TokenLogprob& t : x.top) {
        const auto found = by_token.find(t.token);
        if (found == by_token.end()) continue;
        squares += std::pow(double{t.logprob} - double{found->second}, 2);
        ++compared;
      }
    }
  }
  const double rms = std::sqrt(squares / std::max(compared, 1));
  EXPECT_GE(same, all * (fp8 ? 80 : 95) / 100) << same << " of " << all;
  EXPECT_GT(compared, all * 8) << "the ten best are mostly the same";
  EXPECT_LT(rms, fp8 ? 0.18 : 3e-2);
  std::printf("[   DATA   ] same best token %d of %d, rms of log probabilities %.4f\n", same, all,
              rms);
}

/// Bit for bit.
inline void expect_identical(const std::vector<StepResult>& a, const std::vector<StepResult>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t s = 0; s < a.size(); ++s) {
    EXPECT_EQ(a[s].digest, b[s].digest) << "step " << s;
    ASSERT_EQ(a[s].sampled.size(), b[s].sampled.size()) << "step " << s;
    for (size_t i = 0; i < a[s].sampled.size(); ++i) {
      const SampledToken& x = a[s].sampled[i];
      const SampledToken& y = b[s].sampled[i];
      ASSERT_EQ(x.token, y.token) << "step " << s << " row " << x.row;
      ASSERT_EQ(x.logprob, y.logprob) << "step " << s << " row " << x.row;
      ASSERT_EQ(x.top.size(), y.top.size());
      for (size_t k = 0; k < x.top.size(); ++k)
        ASSERT_EQ(x.top[k].logprob, y.top[k].logprob) << "step " << s << " row " << x.row;
    }
  }
}

}  // namespace troupe::test
