#include "actors/detokenizer.h"

#include "actors/text/tokenizer.h"
#include "gpu/base/check.h"

#include <string>
#include <utility>

namespace troupe {

struct Detokenizer::Stream {
  Stream(const Tokenizer& tokenizer, OpenStream&& open)
      : decoder(tokenizer, open.skip_special_tokens),
        matcher(std::move(open.stop)),
        logprobs(open.logprobs),
        sink(std::move(open.sink)) {}

  IncrementalDecoder decoder;
  StopMatcher matcher;
  bool logprobs;
  Sink sink;
  Usage usage;
};

Detokenizer::Detokenizer(std::shared_ptr<const Tokenizer> tokenizer)
    : tokenizer_(std::move(tokenizer)) {}

Detokenizer::~Detokenizer() {
  for (auto& [id, stream] : streams_) {
    EngineEvent event;
    event.kind = EngineEvent::Kind::kFinished;
    event.reason = FinishReason::kError;
    event.error = fail(ErrorCode::kUnavailable, "the server is shutting down");
    event.usage = stream->usage;
    stream->sink(std::move(event));
  }
}

void Detokenizer::open(OpenStream&& open) {
  const RequestId id = open.id;
  const bool fresh =
      streams_.emplace(id, std::make_unique<Stream>(*tokenizer_, std::move(open))).second;
  TROUPE_CHECK(fresh) << "stream " << id << " opened twice";
}

bool Detokenizer::apply(RequestUpdate&& update) {
  const auto it = streams_.find(update.id);
  if (it == streams_.end()) return false;
  Stream& stream = *it->second;
  EngineEvent event;
  switch (update.kind) {
    case RequestUpdate::Kind::kAccepted:
      stream.usage.prompt_tokens = update.prompt_tokens;
      event.kind = EngineEvent::Kind::kPrompt;
      event.usage = stream.usage;
      event.more = update.more;
      stream.sink(std::move(event));
      return false;
    case RequestUpdate::Kind::kTokens:
      stream.usage.cached_tokens = update.cached_tokens;
      if (!push_tokens(stream, update.tokens, update.more)) return false;
      streams_.erase(it);
      return true;
    case RequestUpdate::Kind::kFinished:
      event.kind = EngineEvent::Kind::kFinished;
      event.reason = update.reason;
      event.error = std::move(update.error);
      event.usage = stream.usage;
      {
        // The rest of the text may still complete a stop string.
        StopMatcher::Output rest = stream.matcher.push(stream.decoder.flush());
        event.text = std::move(rest.text);
        if (rest.stopped) {
          event.stop_text = std::move(rest.stop);
          if (event.reason == FinishReason::kLength) event.reason = FinishReason::kStop;
        } else {
          event.text += stream.matcher.flush();
        }
      }
      const Sink sink = std::move(stream.sink);
      streams_.erase(it);
      sink(std::move(event));
      return false;
  }
  return false;
}

// One event for all tokens of the update; true when a stop string ended the stream.
bool Detokenizer::push_tokens(Stream& stream, const StepTokens& tokens, bool more) {
  EngineEvent event;
  event.kind = EngineEvent::Kind::kTokens;
  bool stopped = false;
  for (const SampledToken& sampled : tokens) {
    ++stream.usage.completion_tokens;
    event.tokens.push_back(sampled.token);
    if (stream.logprobs) {
      LogprobEntry logprob = entry(sampled.token, sampled.logprob);
      for (const TokenLogprob& t : sampled.top) logprob.top.push_back(entry(t.token, t.logprob));
      event.logprobs.push_back(std::move(logprob));
    }
    StopMatcher::Output out = stream.matcher.push(stream.decoder.push(sampled.token));
    event.text += out.text;
    if (out.stopped) {
      event.stop_text = std::move(out.stop);
      stopped = true;
      break;
    }
  }
  event.usage = stream.usage;
  event.more = more || stopped;
  if (!stopped) {
    stream.sink(std::move(event));
    return false;
  }
  EngineEvent end;
  end.kind = EngineEvent::Kind::kFinished;
  end.reason = FinishReason::kStop;
  end.stop_text = std::move(event.stop_text);
  end.usage = stream.usage;
  event.stop_text.clear();
  stream.sink(std::move(event));
  stream.sink(std::move(end));
  return true;
}

LogprobEntry Detokenizer::entry(int32_t token, float logprob) const {
  LogprobEntry e;
  e.token = token;
  e.text = std::string(tokenizer_->bytes(token));
  e.logprob = logprob;
  return e;
}

}  // namespace troupe
