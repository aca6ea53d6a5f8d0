#pragma once

#include <cstdint>
#include <vector>

/// The step protocol between the router and a replica's ranks: plain structs, no CAF. A row is a
/// running sequence on a replica with persistent state there; a plan carries only what changed.
namespace troupe {

/// Steps that keep a rank busy: the one that it runs and the next. The router plans no less ahead,
/// an executor takes no more at once.
inline constexpr int32_t kStepsInFlight = 2;

struct LogitBias {
  int32_t token = 0;
  float bias = 0.0F;
};

/// How the next token of a row is chosen. Defaults are neutral.
struct SamplingParams {
  float temperature = 1.0F;         // 0 = greedy
  int32_t top_k = 0;                // 0 = off
  float top_p = 1.0F;               // 1 = off
  float min_p = 0.0F;               // 0 = off
  float repetition_penalty = 1.0F;  // over prompt and output
  float presence_penalty = 0.0F;    // over output
  float frequency_penalty = 0.0F;   // over output
  uint64_t seed = 0;
  int32_t n_logprobs = -1;  // -1 = none, 0 = of the sampled token, k = also the k best
  std::vector<LogitBias> logit_bias;
  int32_t min_tokens = 0;            // until so many are produced, `stop_tokens` are masked
  std::vector<int32_t> stop_tokens;  // masked while fewer than min_tokens are produced
};

/// A row becomes live. Its first `prefix_slots.size()` positions are already in the pool.
struct OpenRow {
  int32_t row = 0;
  int32_t n_prompt = 0;  // positions below this are prompt, the rest are earlier output (recompute)
  SamplingParams sampling;
  std::vector<int32_t> prefix_slots;   // slots of the positions that need no compute
  std::vector<int32_t> prefix_tokens;  // their token ids (penalties count them)
};

/// What one row does in this step. Its tokens follow the row's positions so far.
struct RowWork {
  int32_t row = 0;
  int32_t n_tokens = 0;
  bool from_last_sample = false;  // input is the row's last sampled token (n_tokens == 1)
  bool sample = false;            // sample after the last of the tokens
};

struct StepPlan {
  uint64_t epoch = 0;
  uint64_t step = 0;
  std::vector<int32_t> closed;  // rows that end before this step
  std::vector<OpenRow> opened;  // rows that begin with this step (after `closed`)
  std::vector<RowWork> work;
  std::vector<int32_t> tokens;  // given tokens of all work items, concatenated
  std::vector<int32_t> slots;   // one new slot per computed token, concatenated
};

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0.0F;
};

struct SampledToken {
  int32_t row = 0;
  int32_t token = 0;
  float logprob = 0.0F;           // natural log, of the unmodified distribution; if asked for
  std::vector<TokenLogprob> top;  // best first; if asked for
  bool failed = false;            // logits were not finite: the request must end with an error
};

struct StepTimings {
  uint32_t compute_us = 0;  // the executor's run
  uint32_t idle_us = 0;     // from the end of the previous run to the start of this one
};

struct StepResult {
  uint64_t epoch = 0;
  uint64_t step = 0;
  uint64_t digest = 0;                // over the plan and the sampled tokens; equal on all ranks
  std::vector<SampledToken> sampled;  // in the order of the plan's work
  StepTimings timings;
};

}  // namespace troupe
