#include "actors/text_actors.h"

#include "actors/text/tokenizer.h"

#include <utility>

namespace troupe {

TokenizerState::TokenizerState(TokenizerHandle::pointer self,
                               std::shared_ptr<const PromptEncoder> encoder, RouterHandle router,
                               std::vector<DetokenizerHandle> detokenizers,
                               std::shared_ptr<std::atomic<int32_t>> backlog)
    : self_(self),
      encoder_(std::move(encoder)),
      router_(std::move(router)),
      detokenizers_(std::move(detokenizers)),
      backlog_(std::move(backlog)) {}

TokenizerHandle::behavior_type TokenizerState::make_behavior() {
  return {
      [this](TokenizeJob& job) { encode(job); },
      // Cancels take the way of the requests, so that none overtakes its own.
      [this](cancel_atom, RequestId id) { self_->send(router_, cancel_atom_v, id); },
  };
}

void TokenizerState::encode(TokenizeJob& job) {
  auto request = encoder_->prepare(job.id, std::move(job.request), job.submitted);
  backlog_->fetch_sub(1, std::memory_order_relaxed);
  if (request) {
    self_->send(router_, std::move(*request));
    return;
  }
  RequestUpdate refused;
  refused.id = job.id;
  refused.kind = RequestUpdate::Kind::kFinished;
  refused.reason = FinishReason::kError;
  refused.error = request.error();
  self_->send(detokenizers_[job.id % detokenizers_.size()],
              std::vector<RequestUpdate>{std::move(refused)});
}

DetokenizerState::DetokenizerState(DetokenizerHandle::pointer self,
                                   std::shared_ptr<const Tokenizer> tokenizer)
    : self_(self), detokenizer_(std::move(tokenizer)) {}

DetokenizerHandle::behavior_type DetokenizerState::make_behavior() {
  return {
      [this](OpenStream& stream) { detokenizer_.open(std::move(stream)); },
      [this](std::vector<RequestUpdate>& updates) {
        for (RequestUpdate& update : updates) {
          const RequestId id = update.id;
          if (!detokenizer_.apply(std::move(update))) continue;
          if (const auto router = caf::actor_cast<RouterHandle>(self_->current_sender())) {
            self_->send(router, finish_atom_v, id);
          }
        }
      },
  };
}

}  // namespace troupe
