#pragma once

#include "actors/engine.h"
#include "actors/router/request.h"
#include "gpu/base/result.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace troupe {

class ChatTemplate;
class Tokenizer;

/// Text, conversation or token ids -> what the router takes. Immutable; any thread.
class PromptEncoder {
 public:
  /// `chat` may be null: conversations are then refused. `stop_tokens` are the model's own.
  PromptEncoder(std::shared_ptr<const Tokenizer> tokenizer,
                std::shared_ptr<const ChatTemplate> chat, std::vector<int32_t> stop_tokens,
                int32_t max_context);

  /// Token ids of a prompt. Control tokens are recognised in raw prompts and in the template's own
  /// text, never in the words of a message.
  [[nodiscard]] Result<std::vector<int32_t>> encode(const Prompt& prompt,
                                                    bool continue_final_message) const;

  /// Encodes, resolves stop tokens and checks everything that needs the vocabulary.
  [[nodiscard]] Result<TokenizedRequest> prepare(RequestId id, GenerateRequest&& request,
                                                 Micros submitted) const;

 private:
  Result<std::vector<int32_t>> encode_chat(const std::vector<ChatMessage>& messages,
                                           bool continue_final_message) const;
  Status check_length(size_t bytes) const;

  std::shared_ptr<const Tokenizer> tokenizer_;  // shared with the detokenizers
  std::shared_ptr<const ChatTemplate> chat_;    // shared with the other tokenizer actors
  std::vector<int32_t> stop_tokens_;
  int32_t max_context_;
};

}  // namespace troupe
