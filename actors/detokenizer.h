#pragma once

#include "actors/messages.h"
#include "actors/text/incremental_decoder.h"
#include "actors/text/stop_matcher.h"

#include <memory>
#include <unordered_map>
#include <vector>

namespace troupe {

class Tokenizer;

/// Tokens to text to client, for many requests: decodes, looks for stop strings, calls the sinks.
/// Owns each sink from open() until its one kFinished. One thread.
class Detokenizer {
 public:
  explicit Detokenizer(std::shared_ptr<const Tokenizer> tokenizer);
  ~Detokenizer();

  void open(OpenStream&& stream);
  /// True when a stop string ended the request: the router has to be told. Updates of unknown
  /// requests (ended here already) are ignored.
  [[nodiscard]] bool apply(RequestUpdate&& update);

  [[nodiscard]] size_t streams() const { return streams_.size(); }

 private:
  struct Stream;
  bool push_tokens(Stream& stream, const StepTokens& tokens, bool more);
  LogprobEntry entry(int32_t token, float logprob) const;

  std::shared_ptr<const Tokenizer> tokenizer_;  // shared with the tokenizer actors
  std::unordered_map<RequestId, std::unique_ptr<Stream>> streams_;
};

}  // namespace troupe
