#pragma once

#include "http/api/call.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace troupe {

/// What the answers of one OpenAI request have in common.
struct OpenAiShape {
  bool chat = false;
  std::string id;     // "cmpl-..." or "chatcmpl-..."
  std::string model;  // served name
  int64_t created = 0;
  int32_t n = 1;  // choices per prompt; usage counts each prompt once
  bool logprobs = false;
  int32_t top_logprobs = 0;
  bool include_usage = false;     // streams: a last chunk with usage
  bool continuous_usage = false;  // streams: usage in every chunk
  std::vector<std::string> echo;  // per choice, put before its text; empty = no echo
};

[[nodiscard]] std::unique_ptr<AnswerWriter> openai_stream_writer(OpenAiShape shape,
                                                                 size_t n_choices);
[[nodiscard]] std::unique_ptr<AnswerWriter> openai_full_writer(OpenAiShape shape, size_t n_choices);

}  // namespace troupe
