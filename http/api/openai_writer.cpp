#include "http/api/openai_writer.h"

#include "gpu/base/check.h"
#include "http/api/json_writer.h"
#include "http/sse.h"

#include <string_view>
#include <utility>

namespace troupe {
namespace {

std::string_view finish_name(FinishReason reason) {
  return reason == FinishReason::kLength ? "\"length\"" : "\"stop\"";
}

void append_usage(std::string& out, const Usage& usage) {
  out += R"({"prompt_tokens":)";
  append_json_number(out, usage.prompt_tokens);
  out += R"(,"completion_tokens":)";
  append_json_number(out, usage.completion_tokens);
  out += R"(,"total_tokens":)";
  append_json_number(out, int64_t{usage.prompt_tokens} + usage.completion_tokens);
  out += R"(,"prompt_tokens_details":{"cached_tokens":)";
  append_json_number(out, usage.cached_tokens);
  out += "}}";
}

void append_chat_entry(std::string& out, const LogprobEntry& entry) {
  out += R"({"token":)";
  append_json_string(out, entry.text);
  out += R"(,"logprob":)";
  append_json_logprob(out, entry.logprob);
  out += R"(,"bytes":[)";
  for (size_t i = 0; i < entry.text.size(); ++i) {
    if (i > 0) out += ',';
    append_json_number(out, static_cast<unsigned char>(entry.text[i]));
  }
  out += ']';
}

void append_chat_logprobs(std::string& out, const std::vector<LogprobEntry>& entries) {
  out += R"({"content":[)";
  for (size_t i = 0; i < entries.size(); ++i) {
    if (i > 0) out += ',';
    append_chat_entry(out, entries[i]);
    out += R"(,"top_logprobs":[)";
    for (size_t k = 0; k < entries[i].top.size(); ++k) {
      if (k > 0) out += ',';
      append_chat_entry(out, entries[i].top[k]);
      out += '}';
    }
    out += "]}";
  }
  out += "]}";
}

int64_t count_characters(std::string_view text) {
  int64_t n = 0;
  while (!text.empty()) {
    const size_t length = utf8_character(text);
    text.remove_prefix(length == 0 ? 1 : length);
    ++n;
  }
  return n;
}

/// `offset` is where the first token starts in the choice's text, in characters; moved on.
void append_completion_logprobs(std::string& out, const std::vector<LogprobEntry>& entries,
                                bool with_top, int64_t& offset) {
  std::string tokens = R"("tokens":[)";
  std::string values = R"("token_logprobs":[)";
  std::string tops = R"("top_logprobs":)";
  tops += with_top ? "[" : "null";
  out += R"({"text_offset":[)";
  for (size_t i = 0; i < entries.size(); ++i) {
    const LogprobEntry& entry = entries[i];
    if (i > 0) {
      for (std::string* list : {&out, &tokens, &values}) *list += ',';
    }
    append_json_number(out, offset);
    offset += count_characters(entry.text);
    append_json_string(tokens, entry.text);
    append_json_logprob(values, entry.logprob);
    if (!with_top) continue;
    if (i > 0) tops += ',';
    tops += '{';
    for (size_t k = 0; k < entry.top.size(); ++k) {
      if (k > 0) tops += ',';
      append_json_string(tops, entry.top[k].text);
      tops += ':';
      append_json_logprob(tops, entry.top[k].logprob);
    }
    tops += '}';
  }
  out += "]," + tokens + "]," + values + "]," + tops;
  out += with_top ? "]}" : "}";
}

void append_logprobs(std::string& out, const OpenAiShape& shape,
                     const std::vector<LogprobEntry>& entries, int64_t& offset) {
  if (!shape.logprobs) {
    out += "null";
  } else if (shape.chat) {
    append_chat_logprobs(out, entries);
  } else {
    append_completion_logprobs(out, entries, shape.top_logprobs > 0, offset);
  }
}

/// {"id":..,"object":..,"created":..,"model":..  up to and without the comma before "choices".
std::string envelope(const OpenAiShape& shape, std::string_view object) {
  std::string out = R"({"id":)";
  append_json_string(out, shape.id);
  out += R"(,"object":)";
  append_json_string(out, object);
  out += R"(,"created":)";
  append_json_number(out, shape.created);
  out += R"(,"model":)";
  append_json_string(out, shape.model);
  return out;
}

/// Prompt tokens count once per prompt, however many choices it has.
Usage total_usage(const std::vector<Usage>& choices, int32_t n) {
  Usage total;
  for (size_t i = 0; i < choices.size(); ++i) {
    total.completion_tokens += choices[i].completion_tokens;
    if (i % static_cast<size_t>(n) == 0) {
      total.prompt_tokens += choices[i].prompt_tokens;
      total.cached_tokens += choices[i].cached_tokens;
    }
  }
  return total;
}

/// One server-sent event per token event. The role (chat) and the echo go out with the first
/// token, so that a client's time to first chunk is a time to first token.
class StreamWriter final : public AnswerWriter {
 public:
  StreamWriter(OpenAiShape shape, size_t n_choices)
      : shape_(std::move(shape)), choices_(n_choices), usage_(n_choices) {
    head_ = "data: " + envelope(shape_, shape_.chat ? "chat.completion.chunk" : "text_completion");
  }

  void event(int32_t index, EngineEvent&& event, std::string& out) override {
    const auto i = static_cast<size_t>(index);
    TROUPE_CHECK(i < choices_.size()) << index;
    usage_[i] = event.usage;
    switch (event.kind) {
      case EngineEvent::Kind::kPrompt: return;
      case EngineEvent::Kind::kTokens: chunk(i, event, "null", out); return;
      case EngineEvent::Kind::kFinished: chunk(i, event, finish_name(event.reason), out); return;
    }
  }

  void end(std::string& out) override {
    if (shape_.include_usage) {
      out += head_;
      out += R"(,"choices":[],"usage":)";
      append_usage(out, total_usage(usage_, shape_.n));
      out += "}\n\n";
    }
    out += kSseDone;
  }

 private:
  struct Choice {
    bool started = false;
    int64_t offset = 0;
  };

  void chunk(size_t i, const EngineEvent& event, std::string_view finish, std::string& out) {
    Choice& choice = choices_[i];
    out += head_;
    out += R"(,"choices":[{"index":)";
    append_json_number(out, static_cast<int64_t>(i));
    if (shape_.chat) {
      out += choice.started ? R"(,"delta":{)" : R"(,"delta":{"role":"assistant",)";
      // The last chunk may have no text of its own.
      const bool content = !choice.started || !event.text.empty() || finish == "null";
      if (content) {
        out += R"("content":)";
        append_json_string(out, event.text);
      }
      out += '}';
    } else {
      out += R"(,"text":)";
      if (!choice.started && i < shape_.echo.size()) {
        choice.offset = count_characters(shape_.echo[i]);
        append_json_string(out, shape_.echo[i] + event.text);
      } else {
        append_json_string(out, event.text);
      }
    }
    choice.started = true;
    out += R"(,"logprobs":)";
    if (event.logprobs.empty()) {
      out += "null";
    } else {
      append_logprobs(out, shape_, event.logprobs, choice.offset);
    }
    out += R"(,"finish_reason":)";
    out += finish;
    if (finish != "null") {
      out += R"(,"stop_reason":)";
      if (event.stop_text.empty()) {
        out += "null";
      } else {
        append_json_string(out, event.stop_text);
      }
    }
    out += "}]";
    if (shape_.continuous_usage) {
      out += R"(,"usage":)";
      append_usage(out, event.usage);
    } else if (shape_.include_usage) {
      out += R"(,"usage":null)";
    }
    out += "}\n\n";
  }

  OpenAiShape shape_;
  std::string head_;
  std::vector<Choice> choices_;
  std::vector<Usage> usage_;
};

class FullWriter final : public AnswerWriter {
 public:
  FullWriter(OpenAiShape shape, size_t n_choices)
      : shape_(std::move(shape)), choices_(n_choices), usage_(n_choices) {
    for (size_t i = 0; i < shape_.echo.size(); ++i) choices_[i].text = shape_.echo[i];
  }

  void event(int32_t index, EngineEvent&& event, std::string& /*out*/) override {
    const auto i = static_cast<size_t>(index);
    TROUPE_CHECK(i < choices_.size()) << index;
    usage_[i] = event.usage;
    Choice& choice = choices_[i];
    choice.text += event.text;
    for (LogprobEntry& entry : event.logprobs) choice.logprobs.push_back(std::move(entry));
    if (event.kind == EngineEvent::Kind::kFinished) {
      choice.reason = event.reason;
      choice.stop_text = std::move(event.stop_text);
    }
  }

  void end(std::string& out) override {
    out += envelope(shape_, shape_.chat ? "chat.completion" : "text_completion");
    out += R"(,"choices":[)";
    for (size_t i = 0; i < choices_.size(); ++i) {
      if (i > 0) out += ',';
      append_choice(i, out);
    }
    out += R"(],"usage":)";
    append_usage(out, total_usage(usage_, shape_.n));
    out += '}';
  }

 private:
  struct Choice {
    std::string text;
    std::vector<LogprobEntry> logprobs;
    FinishReason reason = FinishReason::kStop;
    std::string stop_text;
  };

  void append_choice(size_t i, std::string& out) {
    const Choice& choice = choices_[i];
    out += R"({"index":)";
    append_json_number(out, static_cast<int64_t>(i));
    if (shape_.chat) {
      out += R"(,"message":{"role":"assistant","content":)";
      append_json_string(out, choice.text);
      out += R"(,"refusal":null})";
    } else {
      out += R"(,"text":)";
      append_json_string(out, choice.text);
    }
    out += R"(,"logprobs":)";
    int64_t offset = i < shape_.echo.size() ? count_characters(shape_.echo[i]) : 0;
    append_logprobs(out, shape_, choice.logprobs, offset);
    out += R"(,"finish_reason":)";
    out += finish_name(choice.reason);
    out += R"(,"stop_reason":)";
    if (choice.stop_text.empty()) {
      out += "null";
    } else {
      append_json_string(out, choice.stop_text);
    }
    out += '}';
  }

  OpenAiShape shape_;
  std::vector<Choice> choices_;
  std::vector<Usage> usage_;
};

}  // namespace

std::unique_ptr<AnswerWriter> openai_stream_writer(OpenAiShape shape, size_t n_choices) {
  return std::make_unique<StreamWriter>(std::move(shape), n_choices);
}

std::unique_ptr<AnswerWriter> openai_full_writer(OpenAiShape shape, size_t n_choices) {
  return std::make_unique<FullWriter>(std::move(shape), n_choices);
}

}  // namespace troupe
