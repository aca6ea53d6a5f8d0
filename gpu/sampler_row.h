#pragma once

#include "gpu/device/isa.h"
#include "gpu/step.h"

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

namespace troupe {

/// What a row's tokens were, as far as the penalties ask.
struct TokenCount {
  bool in_prompt = false;
  int32_t in_output = 0;
};
using TokenCounts = std::unordered_map<int32_t, TokenCount>;

/// The logits of vocabulary ids [first, first + values.size()) of one row.
struct LogitSlice {
  int32_t first = 0;
  std::span<float> values;
};

/// A candidate for the next token. Higher scores win, then lower ids.
struct Choice {
  double score = 0.0;
  int32_t token = -1;  // -1: none, every token is masked
  int32_t failed = 0;  // 1: some logit was not finite
};
[[nodiscard]] bool better(const Choice& a, const Choice& b);

/// The sampler's work on one row; pure functions of their arguments, any thread. `position` is that
/// of the token to be sampled, and together with the seed it keys the noise.
namespace sampling {

[[nodiscard]] bool uses_counts(const SamplingParams& params);
/// Whether the choice needs the whole row at once: truncation or logprobs.
[[nodiscard]] bool needs_whole_row(const SamplingParams& params);

/// Logit bias, then repetition penalty (Keskar et al. 2019, CTRL, section 4.1), presence and
/// frequency penalties, then the mask of stop tokens while too few tokens are produced.
void adjust(LogitSlice logits, const SamplingParams& params, const TokenCounts& counts,
            int32_t n_produced);

/// Best token of a slice without truncation: arg max of logit, or of logit / temperature + Gumbel
/// noise. Choices of the slices of a row compare, so the best of them is the row's.
[[nodiscard]] Choice choose(LogitSlice logits, const SamplingParams& params, int32_t position,
                            Isa isa);

/// Buffers kept between calls.
struct Workspace {
  std::vector<std::pair<float, int32_t>> candidates;  // (logit, token)
  std::vector<float> original;                        // the row before adjust(), for logprobs
};

/// Top-k, then top-p of what is left (the smallest set of most probable tokens with that mass,
/// lower ids first among equals), then min-p, then choose(). `logits` is a whole row; it is
/// overwritten.
[[nodiscard]] Choice choose_truncated(LogitSlice logits, const SamplingParams& params,
                                      int32_t position, Isa isa, Workspace& workspace);

/// The k best of a whole row, as natural-log probabilities, and log(sum(exp(logits))).
double log_sum_exp(LogitSlice logits, Isa isa);
std::vector<TokenLogprob> top_logprobs(LogitSlice logits, int32_t k, double log_sum);

}  // namespace sampling
}  // namespace troupe
