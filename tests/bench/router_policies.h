#pragma once

#include "tests/bench/router_sim.h"

#include <cstdint>
#include <deque>
#include <random>
#include <string>
#include <vector>

/// Other systems' admission policies, for comparison with Troupe's router. They run in a plain
/// continuous-batching loop of their own: first come first served, decodes first and the rest of
/// the token budget for prefill chunks, no prefix cache; when the pool is full the youngest is
/// evicted and computed again from the start, output included.
namespace troupe::bench {

/// A request as a policy sees it.
struct SimRequest {
  int32_t input = 0;
  int32_t done = 0;  // output tokens so far
  int32_t max_tokens = 0;
  int32_t true_output = 0;  // for the oracle alone
  int32_t computed = 0;     // slots held
};

class AdmissionPolicy {
 public:
  virtual ~AdmissionPolicy() = default;
  [[nodiscard]] virtual const char* name() const = 0;
  [[nodiscard]] virtual bool admits(const std::vector<SimRequest*>& running, const SimRequest& next,
                                    int64_t n_slots) = 0;
  virtual void ended(int32_t /*output*/) {}
};

/// max over finish order of (own remaining x still running + held): how much the set will need at
/// its worst if the remaining lengths are these.
int64_t peak(std::vector<std::pair<int64_t, int64_t>> remaining_and_held);

/// Knows every length.
class Oracle : public AdmissionPolicy {
 public:
  [[nodiscard]] const char* name() const override { return "oracle"; }
  [[nodiscard]] bool admits(const std::vector<SimRequest*>& running, const SimRequest& next,
                            int64_t n_slots) override;
};

/// LightLLM as shipped (router_token_ratio 0): the peak if everything runs to max_tokens.
class LightLlmDefault : public AdmissionPolicy {
 public:
  [[nodiscard]] const char* name() const override { return "lightllm default"; }
  [[nodiscard]] bool admits(const std::vector<SimRequest*>& running, const SimRequest& next,
                            int64_t n_slots) override;
};

/// LightLLM with router_token_ratio > 0: guesses max(1.1 x produced, 1,024).
class LightLlmAggressive : public AdmissionPolicy {
 public:
  [[nodiscard]] const char* name() const override { return "lightllm aggressive"; }
  [[nodiscard]] bool admits(const std::vector<SimRequest*>& running, const SimRequest& next,
                            int64_t n_slots) override;
};

/// vLLM-like: admit while the prompt fits what is free now, less a watermark of 1 %.
class Watermark : public AdmissionPolicy {
 public:
  [[nodiscard]] const char* name() const override { return "watermark (vLLM-like)"; }
  [[nodiscard]] bool admits(const std::vector<SimRequest*>& running, const SimRequest& next,
                            int64_t n_slots) override;
};

/// Past-Future as published: lengths sampled from a window of 200 real ones, initially all at the
/// maximum, a 5 % reserve, several samples.
class PastFuture : public AdmissionPolicy {
 public:
  [[nodiscard]] const char* name() const override { return "past-future (published)"; }
  [[nodiscard]] bool admits(const std::vector<SimRequest*>& running, const SimRequest& next,
                            int64_t n_slots) override;
  void ended(int32_t output) override;

 private:
  std::deque<int32_t> history_;
  std::mt19937 random_{1};
};

SimReport simulate(AdmissionPolicy& policy, const Workload& workload, int64_t n_slots,
                   int32_t max_rows, int32_t step_tokens, const StepCost& cost);

}  // namespace troupe::bench
