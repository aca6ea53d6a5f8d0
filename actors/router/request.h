#pragma once

#include "actors/engine.h"
#include "gpu/step.h"

#include <cstdint>
#include <vector>

namespace troupe {

/// Microseconds on a steady clock that only the caller reads.
using Micros = int64_t;

/// A tokenized request as the router gets it.
struct TokenizedRequest {
  RequestId id = 0;
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  int32_t max_tokens = -1;           // -1 = what context and pool leave
  std::vector<int32_t> stop_tokens;  // end the request, not part of the output
  Micros submitted = 0;              // when the client handed it in
  Micros deadline = 0;               // 0 = none; absolute
};

struct Replica;

/// A request inside the router, from acceptance until its last plan has returned.
/// waiting -> running -> (leaving) -> waiting again after a pause, or gone.
struct Request {
  enum class Leaving { kNo, kPause, kEnd };

  RequestId id = 0;
  std::vector<int32_t> tokens;  // prompt, then output as it becomes known
  int32_t n_prompt = 0;
  int32_t max_tokens = 0;
  SamplingParams sampling;
  std::vector<int32_t> stop_tokens;
  Micros submitted = 0;
  Micros deadline = 0;
  Micros queued_at = 0;   // when it last began to wait
  Micros last_token = 0;  // when its newest token became known, 0 before the first
  int32_t cached_tokens = 0;
  bool ended = false;  // its end has been announced; only slots are still to be settled

  // While on a replica:
  Replica* replica = nullptr;
  int32_t row = -1;
  bool opened = false;         // the ranks know the row
  std::vector<int32_t> slots;  // of every planned position, in flight ones included
  int32_t samples_in_flight = 0;
  int32_t plans_in_flight = 0;
  Leaving leaving = Leaving::kNo;

  [[nodiscard]] int32_t known() const { return static_cast<int32_t>(tokens.size()); }
  [[nodiscard]] int32_t planned() const { return static_cast<int32_t>(slots.size()); }
  [[nodiscard]] int32_t produced() const { return known() - n_prompt; }
  /// Output tokens that may still be planned.
  [[nodiscard]] int32_t left() const { return max_tokens - produced() - samples_in_flight; }
  /// Known tokens that no plan has computed yet.
  [[nodiscard]] int32_t backlog() const { return known() - planned(); }
};

/// What became of a request, for the detokenizer. kAccepted once, kTokens, kFinished once.
struct RequestUpdate {
  enum class Kind : uint8_t { kAccepted, kTokens, kFinished };
  RequestId id = 0;
  Kind kind = Kind::kTokens;
  std::vector<SampledToken> tokens;           // kTokens
  FinishReason reason = FinishReason::kStop;  // kFinished
  Error error;                                // kFinished, kError
  int32_t prompt_tokens = 0;                  // kAccepted
  int32_t cached_tokens = 0;                  // kTokens
};

}  // namespace troupe
