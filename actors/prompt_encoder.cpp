#include "actors/prompt_encoder.h"

#include "actors/text/chat_template.h"
#include "actors/text/tokenizer.h"

#include <algorithm>
#include <string>
#include <utility>

namespace troupe {

PromptEncoder::PromptEncoder(std::shared_ptr<const Tokenizer> tokenizer,
                             std::shared_ptr<const ChatTemplate> chat,
                             std::vector<int32_t> stop_tokens, int32_t max_context)
    : tokenizer_(std::move(tokenizer)),
      chat_(std::move(chat)),
      stop_tokens_(std::move(stop_tokens)),
      max_context_(max_context) {}

// A text this long cannot fit, whatever its tokens are: refused before any work.
Status PromptEncoder::check_length(size_t bytes) const {
  const auto limit =
      static_cast<size_t>(max_context_) * static_cast<size_t>(tokenizer_->max_token_bytes());
  if (bytes <= limit) return ok_status();
  return fail(ErrorCode::kContextLengthExceeded,
              "the prompt has " + std::to_string(bytes) + " bytes and cannot fit the context of " +
                  std::to_string(max_context_) + " tokens",
              "prompt");
}

Result<std::vector<int32_t>> PromptEncoder::encode(const Prompt& prompt,
                                                   bool continue_final_message) const {
  if (const auto* text = std::get_if<std::string>(&prompt)) {
    if (auto ok = check_length(text->size()); !ok) return ok.error();
    return tokenizer_->encode(*text, {.add_special = true, .parse_special = true});
  }
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&prompt)) {
    for (const int32_t id : *ids) {
      if (id < 0 || id >= tokenizer_->vocab()) {
        return fail(ErrorCode::kInvalidArgument,
                    "token id " + std::to_string(id) + " is not in the vocabulary of " +
                        std::to_string(tokenizer_->vocab()),
                    "prompt");
      }
    }
    return *ids;
  }
  return encode_chat(std::get<std::vector<ChatMessage>>(prompt), continue_final_message);
}

Result<std::vector<int32_t>> PromptEncoder::encode_chat(const std::vector<ChatMessage>& messages,
                                                        bool continue_final_message) const {
  if (chat_ == nullptr) {
    return fail(ErrorCode::kInvalidArgument, "this model has no chat template; use /v1/completions",
                "messages");
  }
  size_t bytes = 0;
  for (const ChatMessage& m : messages) bytes += m.content.size();
  if (auto ok = check_length(bytes); !ok) return ok.error();

  const auto token_text = [&](int32_t id) {
    return id < 0 ? std::string() : std::string(tokenizer_->bytes(id));
  };
  ChatTemplate::Inputs inputs;
  inputs.messages = messages;
  inputs.add_generation_prompt = !continue_final_message;
  inputs.bos_token = token_text(tokenizer_->bos());
  inputs.eos_token = token_text(tokenizer_->eos());
  auto rendered = chat_->render(inputs);
  if (!rendered) return rendered.error();
  std::vector<PromptPiece> pieces = std::move(*rendered);

  if (continue_final_message && !messages.empty() && !messages.back().content.empty()) {
    // Everything after the last message's words closes the turn: leave it out.
    while (!pieces.empty() && pieces.back().from_template) pieces.pop_back();
  }
  std::vector<Tokenizer::TextPiece> texts;
  texts.reserve(pieces.size());
  for (const PromptPiece& piece : pieces) texts.push_back({piece.text, piece.from_template});
  return tokenizer_->encode_pieces(texts, false);
}

Result<TokenizedRequest> PromptEncoder::prepare(RequestId id, GenerateRequest&& request,
                                                Micros submitted) const {
  auto tokens = encode(request.prompt, request.continue_final_message);
  if (!tokens) return tokens.error();
  const auto bad_token = [&](int32_t token) { return token < 0 || token >= tokenizer_->vocab(); };
  for (const LogitBias& bias : request.sampling.logit_bias) {
    if (bad_token(bias.token)) {
      return fail(ErrorCode::kInvalidArgument,
                  "token id " + std::to_string(bias.token) + " is not in the vocabulary",
                  "logit_bias");
    }
  }
  if (std::any_of(request.stop_tokens.begin(), request.stop_tokens.end(), bad_token)) {
    return fail(ErrorCode::kInvalidArgument, "a stop token is not in the vocabulary",
                "stop_token_ids");
  }
  TokenizedRequest out;
  out.id = id;
  out.prompt = std::move(*tokens);
  out.sampling = std::move(request.sampling);
  out.sampling.top_k = std::min(out.sampling.top_k, tokenizer_->vocab());
  out.max_tokens = request.max_tokens;
  out.stop_tokens = std::move(request.stop_tokens);
  if (!request.ignore_eos) {
    out.stop_tokens.insert(out.stop_tokens.end(), stop_tokens_.begin(), stop_tokens_.end());
  }
  if (out.sampling.min_tokens > 0) out.sampling.stop_tokens = out.stop_tokens;
  out.submitted = submitted;
  out.priority = request.priority;
  out.tenant = request.tenant;
  out.cache_salt = request.cache_salt;
  out.endpoint = request.endpoint;
  out.ttft_target = request.ttft_target.count() * 1000;
  out.tpot_target = request.tpot_target.count() * 1000;
  if (request.deadline.count() > 0) out.deadline = submitted + request.deadline.count() * 1000;
  return out;
}

}  // namespace troupe
