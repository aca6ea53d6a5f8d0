#pragma once

#include "gpu/step.h"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace troupe {

class Communicator;
class Stream;

/// Chooses tokens from vocabulary-parallel logits. Gumbel-max with noise from a counter-based
/// generator keyed by (seed, position, token id): a request's tokens depend on nothing else, not on
/// its row, its neighbours, a pause or the TP degree. Every rank holds one and calls it with the
/// same rows; all ranks get the same answer. Rank worker thread only.
class Sampler {
 public:
  /// This rank owns vocabulary ids [vocab_begin, vocab_begin + vocab_local) of vocab_total.
  Sampler(int32_t vocab_total, int32_t vocab_begin, int32_t vocab_local, int32_t max_rows);
  ~Sampler();

  void open(int32_t row, const SamplingParams& params, int32_t n_prompt);
  void close(int32_t row);
  /// Tells the sampler which tokens entered the row at positions [first, first + tokens.size()):
  /// prompt below n_prompt, output from there. Sampled tokens count when they are fed back in.
  void observe(int32_t row, int32_t first_position, std::span<const int32_t> tokens);

  struct Request {
    int32_t row = 0;
    int32_t position = 0;  // of the token to be sampled
  };
  /// logits: [requests.size(), vocab_local] fp32, modified in place. Collective: all ranks call it
  /// with the same requests. Ties go to the lower token id. Appends one SampledToken per request.
  void sample(std::span<const Request> requests, float* logits, Communicator& communicator,
              Stream& stream, std::vector<SampledToken>& out);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace troupe
