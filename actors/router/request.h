#pragma once

#include "actors/engine.h"
#include "actors/router/prefix_cache.h"
#include "gpu/step.h"

#include <cstddef>
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
  int32_t priority = 0;              // lower starts earlier
  uint64_t tenant = 0;               // whose fair share it counts against
  uint64_t cache_salt = 0;           // shares cached prefixes only with requests of the same salt
  int32_t endpoint = 0;              // kind of traffic, for the estimate of its length
  Micros ttft_target = 0;            // first token within this after `submitted`, 0 = none
  Micros tpot_target = 0;            // every further token within this, 0 = none
};

struct Replica;

/// A request inside the router, from acceptance until its last plan has returned.
/// waiting -> running -> (leaving) -> waiting again after a pause, or gone.
/// Tokens in common that are worth waiting for; fewer are computed twice.
inline constexpr size_t kWorthWaiting = 16;

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
  int32_t priority = 0;
  uint64_t tenant = 0;
  CacheSalt cache_salt;
  uint64_t head = 0;  // hash of the first kWorthWaiting tokens, or of all if there are fewer
  Micros ttft_target = 0;
  Micros tpot_target = 0;
  Micros start_by = 0;        // its place among its tenant's waiting ones: when it should start
  Micros look_at = 0;         // when its target is looked at next, while it waits
  int32_t request_class = 0;  // of OutputEstimator
  int32_t next_edge = 0;      // output length at which the estimator hears of it
  double charged = 0;         // to its tenant so far, in tokens
  Micros queued_at = 0;       // when it last began to wait
  Micros last_token = 0;      // when its newest token became known, 0 before the first
  int32_t cached_tokens = 0;  // of the prompt, at its first start
  Micros held_back = 0;       // since when it waits for a replica with its prefix, 0 = does not
  int32_t overtaken = 0;      // times that another started before it while it was the head
  int32_t preempted = 0;      // times that it was paused for one of a higher priority
  bool started = false;       // has been on a replica, so its place in the queue is in front
  bool poisoned = false;      // its KV may hold values that are not numbers
  size_t update = 0;          // place of its newest update among those not yet handed over
  bool ended = false;         // its end has been announced; only slots are still to be settled

  // While on a replica:
  Replica* replica = nullptr;
  int32_t row = -1;
  bool opened = false;                // the ranks know the row
  std::vector<int32_t> slots;         // of every planned position, in flight ones included
  PrefixCache::Ref prefix = nullptr;  // keeps the first
  int32_t in_tree = 0;                // of `slots`, which belong to the prefix cache
  bool own_copies = false;            // the cache had computed tokens already: no more go there
  int32_t borrowed = 0;               // first tokens that others account for
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

/// At most one token, without the heap: one is made for every token of every request.
class StepTokens {
 public:
  void push_back(const SampledToken& token) {
    token_ = token;
    any_ = true;
  }
  [[nodiscard]] const SampledToken* begin() const { return &token_; }
  [[nodiscard]] const SampledToken* end() const { return &token_ + (any_ ? 1 : 0); }
  [[nodiscard]] size_t size() const { return any_ ? 1 : 0; }
  [[nodiscard]] bool empty() const { return !any_; }
  [[nodiscard]] const SampledToken& front() const { return token_; }

 private:
  SampledToken token_;
  bool any_ = false;
};

/// What became of a request, for the detokenizer. kAccepted once, kTokens, kFinished once.
struct RequestUpdate {
  enum class Kind : uint8_t { kAccepted, kTokens, kFinished };
  RequestId id = 0;
  Kind kind = Kind::kTokens;
  bool more = false;                          // another one of this request follows in the list
  StepTokens tokens;                          // kTokens
  FinishReason reason = FinishReason::kStop;  // kFinished
  Error error;                                // kFinished, kError
  int32_t prompt_tokens = 0;                  // kAccepted
  int32_t cached_tokens = 0;                  // kTokens
};

}  // namespace troupe
