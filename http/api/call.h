#pragma once

#include "actors/engine.h"

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace troupe {

/// Turns the engine events of one HTTP request into the bytes of its answer; one per API dialect.
/// Used by one thread at a time.
class AnswerWriter {
 public:
  virtual ~AnswerWriter() = default;
  /// Takes one event of choice `index`. A streaming writer appends what is to be sent now to
  /// `out`; the others collect.
  virtual void event(int32_t index, EngineEvent&& event, std::string& out) = 0;
  /// All choices have finished: appends the rest of the stream, or the whole body.
  virtual void end(std::string& out) = 0;
};

/// One HTTP request that asks for generation, validated: `requests[i]` is choice i of the answer.
struct GenerateCall {
  std::vector<GenerateRequest> requests;
  bool stream = false;
  std::unique_ptr<AnswerWriter> writer;
};

/// Bounds on what one HTTP request may ask for.
struct ApiLimits {
  int32_t max_n = 8;          // choices per prompt
  int32_t max_choices = 128;  // prompts x n
  int32_t max_messages = 1024;
  int32_t max_stop = 16;         // stop strings
  int32_t max_stop_bytes = 256;  // each
  int32_t max_stop_tokens = 64;
  int32_t max_logit_bias = 300;
  int32_t max_logprobs = 20;
  std::chrono::milliseconds deadline{600'000};  // of one generation; 0 = none
};

}  // namespace troupe
