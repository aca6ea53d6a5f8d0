#pragma once

#include "actors/engine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace troupe::test {

/// An Engine without a model: one byte is one token, and the answer to any prompt is the alphabet,
/// one letter a token. In manual mode it only records, and the test sends the events.
class FakeEngine final : public Engine {
 public:
  struct Options {
    bool manual = false;
    int32_t max_context = 512;
    bool chat_template = true;
    std::chrono::microseconds token_delay{0};  // pace of the automatic answer
  };

  FakeEngine() : FakeEngine(Options()) {}
  explicit FakeEngine(Options options) : options_(options) {
    model_ = {.id = "fake",
              .path = "/nowhere",
              .max_context = options_.max_context,
              .vocab = 256,
              .has_chat_template = options_.chat_template,
              .created = 1'700'000'000};
    stats_.ready = true;
    stats_.replicas_ready = 1;
    worker_ = std::thread([this] { work(); });
  }
  ~FakeEngine() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    worker_.join();
  }
  FakeEngine(const FakeEngine&) = delete;
  FakeEngine& operator=(const FakeEngine&) = delete;

  RequestId submit(GenerateRequest request, Sink sink) override {
    const std::lock_guard lock(mutex_);
    const RequestId id = next_id_++;
    auto live = std::make_shared<Live>();
    live->request = std::move(request);
    live->sink = std::move(sink);
    live_[id] = live;
    ++submitted_;
    if (!options_.manual) queue_.push_back(live);
    changed_.notify_all();
    return id;
  }

  void cancel(RequestId id) override {
    std::shared_ptr<Live> live;
    {
      const std::lock_guard lock(mutex_);
      const auto found = live_.find(id);
      if (found == live_.end() || found->second->cancelled) return;
      live = found->second;
      live->cancelled = true;
      ++cancelled_;
      changed_.notify_all();
    }
    if (options_.manual) finish(*live, {.reason = FinishReason::kCancelled});
  }

  void reset_prefix_cache() override { ++cache_resets; }
  std::atomic<int> cache_resets{0};
  [[nodiscard]] EngineStats stats() const override {
    const std::lock_guard lock(mutex_);
    return stats_;
  }
  [[nodiscard]] const ModelInfo& model() const override { return model_; }
  [[nodiscard]] Result<std::vector<int32_t>> tokenize(const Prompt& prompt) const override {
    std::vector<int32_t> out;
    for (const char c : text_of(prompt)) out.push_back(static_cast<unsigned char>(c));
    return out;
  }
  [[nodiscard]] std::string detokenize(const std::vector<int32_t>& tokens) const override {
    std::string out;
    for (const int32_t t : tokens) out += static_cast<char>(t);
    return out;
  }

  // -- for tests --

  void set_stats(const EngineStats& stats) {
    const std::lock_guard lock(mutex_);
    stats_ = stats;
  }
  /// Every later request ends with this error before its first event.
  void refuse_with(Error error) {
    const std::lock_guard lock(mutex_);
    refusal_ = std::move(error);
    refusing_ = true;
  }
  /// False if not so many were submitted (cancelled) within ten seconds.
  bool wait_submitted(int64_t n) {
    return wait([&] { return submitted_ >= n; });
  }
  bool wait_cancelled(int64_t n) {
    return wait([&] { return cancelled_ >= n; });
  }
  [[nodiscard]] int64_t submitted() const {
    const std::lock_guard lock(mutex_);
    return submitted_;
  }
  [[nodiscard]] int64_t cancelled() const {
    const std::lock_guard lock(mutex_);
    return cancelled_;
  }
  /// Ids count from 1. The request stays readable after its end.
  [[nodiscard]] GenerateRequest request(RequestId id) const {
    const std::lock_guard lock(mutex_);
    return live_.at(id)->request;
  }
  /// Manual mode: the event reaches the sink, unless the request has ended.
  void send(RequestId id, EngineEvent event) {
    std::shared_ptr<Live> live;
    {
      const std::lock_guard lock(mutex_);
      live = live_.at(id);
    }
    if (event.kind == EngineEvent::Kind::kFinished) {
      finish(*live, std::move(event));
    } else {
      deliver(*live, std::move(event));
    }
  }

 private:
  struct Live {
    GenerateRequest request;
    Sink sink;
    std::atomic<bool> cancelled{false};
    std::mutex calling;  // one sink call at a time
    bool finished = false;
  };

  template <class Condition>
  bool wait(Condition condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(10), condition);
  }

  static std::string text_of(const Prompt& prompt) {
    if (const auto* text = std::get_if<std::string>(&prompt)) return *text;
    std::string out;
    if (const auto* tokens = std::get_if<std::vector<int32_t>>(&prompt)) {
      for (const int32_t t : *tokens) out += static_cast<char>(t);
    } else {
      for (const ChatMessage& m : std::get<std::vector<ChatMessage>>(prompt)) {
        out += m.role + ":" + m.content + "\n";
      }
    }
    return out;
  }

  void deliver(Live& live, EngineEvent event) {
    const std::lock_guard lock(live.calling);
    if (!live.finished) live.sink(std::move(event));
  }

  void finish(Live& live, EngineEvent event) {
    const std::lock_guard lock(live.calling);
    if (live.finished) return;
    live.finished = true;
    event.kind = EngineEvent::Kind::kFinished;
    live.sink(std::move(event));
  }

  void answer(Live& live) {
    Error refusal;
    {
      const std::lock_guard lock(mutex_);
      if (refusing_) refusal = refusal_;
      if (!refusing_) refusal.code = ErrorCode::kCancelled;
    }
    if (refusal.code != ErrorCode::kCancelled) {
      finish(live, {.reason = FinishReason::kError, .error = refusal});
      return;
    }
    const GenerateRequest& r = live.request;
    Usage usage{.prompt_tokens = static_cast<int32_t>(text_of(r.prompt).size())};
    const int32_t room = options_.max_context - usage.prompt_tokens;
    const int32_t want = r.max_tokens < 0 ? std::min(room, 26) : r.max_tokens;
    if (want > room || want < 1) {
      finish(live, {.reason = FinishReason::kError,
                    .error = fail(ErrorCode::kContextLengthExceeded, "too long", "prompt")});
      return;
    }
    deliver(live, {.kind = EngineEvent::Kind::kPrompt, .usage = usage});
    for (int32_t i = 0; i < want && !live.cancelled; ++i) {
      const std::string letter(1, static_cast<char>('a' + i % 26));
      ++usage.completion_tokens;
      EngineEvent event{.text = letter, .tokens = {letter[0]}, .usage = usage};
      if (r.sampling.n_logprobs >= 0) {
        LogprobEntry entry{.token = letter[0], .text = letter, .logprob = -0.5F};
        for (int32_t k = 0; k < r.sampling.n_logprobs; ++k) {
          entry.top.push_back({.token = k, .text = std::string(1, static_cast<char>('A' + k))});
        }
        event.logprobs.push_back(std::move(entry));
      }
      if (std::find(r.stop.begin(), r.stop.end(), letter) != r.stop.end()) {
        finish(live, {.reason = FinishReason::kStop, .stop_text = letter, .usage = usage});
        return;
      }
      deliver(live, std::move(event));
      if (options_.token_delay.count() > 0) {
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, options_.token_delay, [&] { return stopping_; });
      }
    }
    const auto reason = live.cancelled     ? FinishReason::kCancelled
                        : r.max_tokens < 0 ? FinishReason::kStop
                                           : FinishReason::kLength;
    finish(live, {.reason = reason, .usage = usage});
  }

  void work() {
    for (;;) {
      std::shared_ptr<Live> live;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
        if (queue_.empty()) return;
        live = queue_.front();
        queue_.pop_front();
      }
      answer(*live);
    }
  }

  const Options options_;
  ModelInfo model_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  EngineStats stats_;
  Error refusal_;
  bool refusing_ = false;
  bool stopping_ = false;
  RequestId next_id_ = 1;
  int64_t submitted_ = 0;
  int64_t cancelled_ = 0;
  std::map<RequestId, std::shared_ptr<Live>> live_;
  std::deque<std::shared_ptr<Live>> queue_;
  std::thread worker_;
};

}  // namespace troupe::test
