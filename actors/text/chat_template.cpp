#include "actors/text/chat_template.h"

#include "actors/text/jinja/interpreter.h"
#include "actors/text/jinja/syntax.h"

#include <utility>

namespace troupe {

struct ChatTemplate::Impl {
  jinja::Block body;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;

namespace {

using jinja::Origin;
using jinja::Value;

// The largest published template has 20 KB.
constexpr size_t kMaxTemplateBytes = size_t{1} << 20U;

size_t bytes_of(const ChatTemplate::Inputs& inputs) {
  size_t bytes = inputs.bos_token.size() + inputs.eos_token.size();
  for (const ChatMessage& m : inputs.messages) {
    bytes += m.role.size() + m.content.size() + m.name.size();
  }
  return bytes;
}

/// Room for a template that walks every message some dozens of times, not for one that never ends.
jinja::Budget budget_for(const ChatTemplate::Inputs& inputs) {
  constexpr int64_t kFixed = int64_t{64} << 20U;
  return jinja::Budget(kFixed + 64 * static_cast<int64_t>(bytes_of(inputs)) +
                       100'000 * static_cast<int64_t>(inputs.messages.size()));
}

size_t max_output_for(const ChatTemplate::Inputs& inputs) {
  return (size_t{32} << 20U) + 4 * bytes_of(inputs);
}

Value message_value(const ChatMessage& message) {
  std::vector<std::pair<Value, Value>> items;
  items.emplace_back(Value::text("role"), Value::text(message.role, Origin::kMessage));
  items.emplace_back(Value::text("content"), Value::text(message.content, Origin::kMessage));
  if (!message.name.empty()) {
    items.emplace_back(Value::text("name"), Value::text(message.name, Origin::kMessage));
  }
  return Value::dict(std::move(items));
}

/// What transformers' apply_chat_template() gives to a template.
jinja::Scope globals_for(const ChatTemplate::Inputs& inputs) {
  jinja::Scope globals;
  std::vector<Value> messages;
  for (const ChatMessage& m : inputs.messages) messages.push_back(message_value(m));
  globals["messages"] = Value::list(std::move(messages));
  globals["add_generation_prompt"] = Value::boolean(inputs.add_generation_prompt);
  globals["bos_token"] = Value::text(inputs.bos_token);
  globals["eos_token"] = Value::text(inputs.eos_token);
  globals["tools"] = Value::none();
  globals["documents"] = Value::none();
  for (const char* name : {"raise_exception", "range", "namespace", "dict", "strftime_now"}) {
    globals[name] = Value::callable(name);
  }
  return globals;
}

std::vector<PromptPiece> pieces_of(const jinja::Text& text) {
  std::vector<PromptPiece> pieces;
  size_t begin = 0;
  for (const jinja::Text::Run& run : text.runs()) {
    pieces.push_back(
        {text.bytes().substr(begin, run.end - begin), run.origin == Origin::kTemplate});
    begin = run.end;
  }
  return pieces;
}

std::string describe(const jinja::Failure& failure) {
  return "the chat template, line " + std::to_string(failure.line) + ": " + failure.what();
}

}  // namespace

Result<std::shared_ptr<const ChatTemplate>> ChatTemplate::parse(std::string_view source) {
  if (source.size() > kMaxTemplateBytes) {
    return fail(ErrorCode::kBadModel, "the chat template is larger than 1 MiB");
  }
  if (!jinja::is_valid_utf8(source)) {
    return fail(ErrorCode::kBadModel, "the chat template is not UTF-8");
  }
  try {
    auto impl = std::make_unique<Impl>();
    impl->body = jinja::parse(source);
    return std::shared_ptr<const ChatTemplate>(new ChatTemplate(std::move(impl)));
  } catch (const jinja::Failure& failure) {
    return fail(ErrorCode::kBadModel, describe(failure));
  }
}

Result<std::vector<PromptPiece>> ChatTemplate::render(const Inputs& inputs) const {
  try {
    jinja::Interpreter interpreter(globals_for(inputs), budget_for(inputs), max_output_for(inputs));
    return pieces_of(interpreter.run(impl_->body));
  } catch (const jinja::Failure& failure) {
    return fail(ErrorCode::kInvalidArgument,
                failure.from_template ? std::string(failure.what()) : describe(failure),
                "messages");
  }
}

}  // namespace troupe
