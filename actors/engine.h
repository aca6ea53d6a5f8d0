#pragma once

#include "actors/engine_snapshot.h"
#include "gpu/base/result.h"
#include "gpu/step.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace troupe {

using RequestId = uint64_t;  // 0 is never used

struct ChatMessage {
  std::string role;     // "system", "user", "assistant", "tool" or what the template knows
  std::string content;  // valid UTF-8
  std::string name;     // optional
};

/// What is to be continued: text, token ids as they are, or a conversation for the chat template.
using Prompt = std::variant<std::string, std::vector<int32_t>, std::vector<ChatMessage>>;

/// One sequence to generate. Already validated for types and ranges that need no model.
struct GenerateRequest {
  Prompt prompt;
  SamplingParams sampling;
  int32_t max_tokens = -1;                // -1 = what the context leaves
  std::vector<std::string> stop;          // stop strings, never part of the output
  std::vector<int32_t> stop_tokens;       // besides the model's own
  bool ignore_eos = false;                // do not end at the model's own stop tokens
  bool skip_special_tokens = true;        // in the text
  bool continue_final_message = false;    // chat: no generation prompt, go on with the last message
  std::chrono::milliseconds deadline{0};  // from submit to the end; 0 = none
  int32_t priority = 0;                   // lower starts earlier
  uint64_t tenant = 0;      // whose fair share it counts against (the API key's number)
  uint64_t cache_salt = 0;  // shares cached prefixes only with requests of the same salt
  int32_t endpoint = 0;     // kind of traffic, 0..3, for the estimate of its output length
  std::chrono::milliseconds ttft_target{0};  // refused at once if this cannot be met; 0 = none
  std::chrono::milliseconds tpot_target{0};
};

enum class FinishReason { kStop, kLength, kCancelled, kError };

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
  int32_t cached_tokens = 0;  // of the prompt, not computed again
};

struct LogprobEntry {
  int32_t token = 0;
  std::string text;  // the token's own bytes, may be half a character
  float logprob = 0.0F;
  std::vector<LogprobEntry> top;  // alternatives, best first; without `top` of their own
};

/// What the engine tells a sink. First event: kPrompt (once, when tokenized and accepted); then
/// kTokens; then exactly one kFinished, after which the sink is not called again.
struct EngineEvent {
  enum class Kind { kPrompt, kTokens, kFinished };
  Kind kind = Kind::kTokens;
  std::string text;             // kTokens: complete UTF-8, may be empty while text is held back
  std::vector<int32_t> tokens;  // kTokens
  std::vector<LogprobEntry> logprobs;         // kTokens, one per token if asked for
  FinishReason reason = FinishReason::kStop;  // kFinished
  std::string stop_text;                      // kFinished: the stop string that matched, if one did
  Error error;                                // kFinished with kError
  Usage usage;                                // all kinds, so far
  bool more = false;                          // the next event of this request follows at once
};

/// Called on engine threads, one call at a time for one request; must not block. Text delivered
/// with kFinished (flushed rest) is in `text`.
using Sink = std::function<void(EngineEvent&&)>;

struct ModelInfo {
  std::string id;  // served name
  std::string path;
  int32_t max_context = 0;  // tokens, prompt + output
  int32_t vocab = 0;
  bool has_chat_template = false;
  int64_t created = 0;  // unix seconds, start of this server
};

/// A fixed-bucket histogram; counts[i] is the number of values <= bounds[i] and > bounds[i-1], the
/// last count is the overflow.
struct Histogram {
  std::vector<double> bounds;
  std::vector<uint64_t> counts;  // bounds.size() + 1
  double sum = 0;
};

/// A snapshot for /metrics and tests. Counters only grow.
struct EngineStats {
  bool ready = false;  // at least one replica serves and the engine is not draining
  bool draining = false;
  int32_t replicas_ready = 0;
  int32_t queued = 0, running = 0, paused = 0;  // requests
  int64_t slots_total = 0, slots_used = 0, slots_cached = 0;
  uint64_t requests_accepted = 0, requests_rejected = 0;
  uint64_t finished_stop = 0, finished_length = 0, finished_cancelled = 0, finished_error = 0;
  uint64_t prompt_tokens = 0, output_tokens = 0, cached_prompt_tokens = 0;
  uint64_t pauses = 0, steps = 0, stale_messages = 0, replicas_lost = 0;
  uint64_t device_busy_us = 0, device_idle_us = 0;  // summed over steps, rank 0 of each replica
  Histogram ttft_s, inter_token_s, e2e_s, queue_s, prompt_len, output_len, step_tokens;
};

/// The whole system below HTTP, as plain C++: no CAF type in sight. All functions: any thread.
class Engine {
 public:
  virtual ~Engine() = default;
  /// Never blocks. Everything that goes wrong later reaches the sink as kFinished/kError, so that
  /// a sink passed here always gets exactly one kFinished.
  virtual RequestId submit(GenerateRequest request, Sink sink) = 0;
  /// Ends a request early; unknown or finished ids are ignored. The sink gets kCancelled.
  virtual void cancel(RequestId id) = 0;
  /// Forgets all cached prefixes; running requests are not disturbed.
  virtual void reset_prefix_cache() {}
  [[nodiscard]] virtual EngineStats stats() const = 0;
  /// For the dashboard. Made while somebody asks, at most a few times a second: the first one, and
  /// the first after a pause, is empty or old (see `now`).
  [[nodiscard]] virtual EngineSnapshot snapshot() const = 0;
  [[nodiscard]] virtual const ModelInfo& model() const = 0;
  /// Text -> token ids (adds the special tokens that the model wants before a prompt), and back.
  [[nodiscard]] virtual Result<std::vector<int32_t>> tokenize(const Prompt& prompt) const = 0;
  [[nodiscard]] virtual std::string detokenize(const std::vector<int32_t>& tokens) const = 0;
};

}  // namespace troupe
