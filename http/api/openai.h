#pragma once

#include "actors/engine.h"
#include "gpu/base/result.h"
#include "http/api/call.h"

#include <string>
#include <string_view>

namespace troupe {

/// What the parsers need to know besides the body.
struct OpenAiContext {
  const Engine& engine;
  const ApiLimits& limits;
  std::string request_id;  // becomes part of the answer's "id"
  uint64_t tenant = 0;     // number of the API key
};

/// POST /v1/completions and POST /v1/chat/completions: body -> validated call. Members that are
/// null or unknown are ignored; known ones that ask for what is not supported are refused.
[[nodiscard]] Result<GenerateCall> parse_completion(std::string_view body,
                                                    const OpenAiContext& context);
[[nodiscard]] Result<GenerateCall> parse_chat(std::string_view body, const OpenAiContext& context);

/// POST /tokenize: {"prompt": text} or {"messages": [...]} -> {"count","max_model_len","tokens"}.
[[nodiscard]] Result<std::string> answer_tokenize(std::string_view body,
                                                  const OpenAiContext& context);
/// POST /detokenize: {"tokens": [...]} -> {"prompt": text}.
[[nodiscard]] Result<std::string> answer_detokenize(std::string_view body,
                                                    const OpenAiContext& context);

/// GET /v1/models and /v1/models/{id}.
[[nodiscard]] std::string model_list_json(const ModelInfo& model);
[[nodiscard]] std::string model_json(const ModelInfo& model);

}  // namespace troupe
