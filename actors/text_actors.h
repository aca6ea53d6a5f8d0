#pragma once

#include "actors/detokenizer.h"
#include "actors/messages.h"
#include "actors/prompt_encoder.h"
#include "actors/state_actor.h"

#include <atomic>
#include <memory>

namespace troupe {

/// One of the tokenizer pool: request in, tokens to the router. A request that cannot be encoded
/// ends at the detokenizer.
class TokenizerState {
 public:
  static constexpr const char* kName = "tokenizer";
  TokenizerState(TokenizerHandle::pointer self, std::shared_ptr<const PromptEncoder> encoder,
                 RouterHandle router, std::vector<DetokenizerHandle> detokenizers,
                 std::shared_ptr<std::atomic<int32_t>> backlog);
  TokenizerHandle::behavior_type make_behavior();

 private:
  void encode(TokenizeJob& job);

  TokenizerHandle::pointer self_;
  std::shared_ptr<const PromptEncoder> encoder_;  // shared by the pool
  RouterHandle router_;
  std::vector<DetokenizerHandle> detokenizers_;
  std::shared_ptr<std::atomic<int32_t>> backlog_;  // jobs not encoded yet; the engine adds
};

/// One of the detokenizer pool. The router's handle arrives late: the two know each other.
class DetokenizerState {
 public:
  static constexpr const char* kName = "detokenizer";
  DetokenizerState(DetokenizerHandle::pointer self, std::shared_ptr<const Tokenizer> tokenizer);
  DetokenizerHandle::behavior_type make_behavior();

 private:
  DetokenizerHandle::pointer self_;
  Detokenizer detokenizer_;
};

}  // namespace troupe
