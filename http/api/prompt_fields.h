#pragma once

#include "actors/engine.h"
#include "http/api/call.h"
#include "http/api/json_reader.h"

#include <cstdint>
#include <string_view>
#include <vector>

namespace troupe {

// What a request asks to be continued, out of its JSON. What is wrong is noted in `fields`.

/// A list of token ids; the caller has seen that it is an array.
bool read_tokens(Fields& fields, std::string_view name, const Json& list, const ModelInfo& model,
                 std::vector<int32_t>& out);

/// "prompt": one prompt per element, each a string or a list of token ids.
[[nodiscard]] std::vector<Prompt> read_prompts(Fields& fields, const ModelInfo& model,
                                               const ApiLimits& limits);

/// "messages": a conversation.
[[nodiscard]] std::vector<ChatMessage> read_messages(Fields& fields, const ApiLimits& limits);

/// Whether the model answers the last message or goes on with it.
void read_generation_prompt(Fields& fields, const std::vector<ChatMessage>& messages,
                            GenerateRequest& request);

}  // namespace troupe
