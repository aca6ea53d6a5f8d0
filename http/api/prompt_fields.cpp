#include "http/api/prompt_fields.h"

#include <string>
#include <utility>

namespace troupe {
namespace {

constexpr size_t kMaxName = 256;

/// A token id of the model, or -1.
int32_t token_id(const Json& value, const ModelInfo& model) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() >= static_cast<uint64_t>(model.vocab)) {
    return -1;
  }
  return static_cast<int32_t>(value.get<uint64_t>());
}

/// The text of one message: a string, or a list of {"type":"text","text":...} parts joined.
bool read_content(Fields& message, std::string& out) {
  const Json* content = message.find("content");
  if (content == nullptr || content->is_string()) {
    if (content == nullptr) message.refuse("content", "is required");
    return message.string("content", kMaxText, out);
  }
  if (!content->is_array()) {
    message.refuse("content", "must be a string or a list of text parts");
    return false;
  }
  for (const Json& part : *content) {
    if (!part.is_object() || part.value("type", Json()) != Json("text")) {
      message.refuse("content", "may only hold parts of type 'text'");
      return false;
    }
    const auto text = part.find("text");
    if (text == part.end() || !text->is_string()) {
      message.refuse("content", "has a text part without 'text'");
      return false;
    }
    out += text->get_ref<const std::string&>();
  }
  return true;
}

}  // namespace

bool read_tokens(Fields& fields, std::string_view name, const Json& list, const ModelInfo& model,
                 std::vector<int32_t>& out) {
  out.reserve(list.size());
  for (const Json& value : list) {
    const int32_t id = token_id(value, model);
    if (id < 0) {
      fields.refuse(name, "must hold token ids from 0 to " + std::to_string(model.vocab - 1));
      return false;
    }
    out.push_back(id);
  }
  return true;
}

std::vector<Prompt> read_prompts(Fields& fields, const ModelInfo& model, const ApiLimits& limits) {
  std::vector<Prompt> prompts;
  const Json* value = fields.find("prompt");
  if (value == nullptr) {
    fields.refuse("prompt", "is required");
    return prompts;
  }
  const auto add = [&](const Json& one) {
    std::vector<int32_t> tokens;
    if (one.empty()) {  // before size(): a string is never empty() to the JSON library
      fields.refuse("prompt", "must not be empty");
    } else if (one.is_string()) {
      if (one.get_ref<const std::string&>().empty()) fields.refuse("prompt", "must not be empty");
      prompts.emplace_back(one.get<std::string>());
    } else if (one.is_array()) {
      if (read_tokens(fields, "prompt", one, model, tokens))
        prompts.emplace_back(std::move(tokens));
    } else {
      fields.refuse("prompt",
                    "must be a string, a list of strings, a list of token ids or a list of those");
    }
  };
  const bool many = value->is_array() && !value->empty() && !value->front().is_number();
  if (!many) {
    add(*value);
  } else if (value->size() > static_cast<size_t>(limits.max_choices)) {
    fields.refuse("prompt", "must hold at most " + std::to_string(limits.max_choices) + " prompts");
  } else {
    for (const Json& one : *value) {
      if (!fields.ok()) break;
      add(one);
    }
  }
  return prompts;
}

std::vector<ChatMessage> read_messages(Fields& fields, const ApiLimits& limits) {
  std::vector<ChatMessage> out;
  const Json* list = fields.find("messages");
  if (list == nullptr || !list->is_array() || list->empty() ||
      list->size() > static_cast<size_t>(limits.max_messages)) {
    fields.refuse("messages",
                  "must be a list of 1 to " + std::to_string(limits.max_messages) + " messages");
    return out;
  }
  for (const Json& item : *list) {
    const std::string where = "messages[" + std::to_string(out.size()) + "]";
    if (!item.is_object()) {
      fields.refuse(where, "must be an object");
      return out;
    }
    Fields message(item);
    ChatMessage& m = out.emplace_back();
    message.string("role", 64, m.role);
    if (m.role == "developer") m.role = "system";  // OpenAI's newer name for it
    if (m.role != "system" && m.role != "user" && m.role != "assistant" && m.role != "tool") {
      message.refuse("role", "must be system, user, assistant or tool");
    }
    if (!is_off(message.find("tool_calls"))) message.refuse("tool_calls", "is not supported");
    read_content(message, m.content);
    message.string("name", kMaxName, m.name);
    if (!message.ok()) {
      const Error& error = message.status().error();
      fields.refuse(where + "." + error.param, error.message.substr(error.param.size() + 3));
      return out;
    }
  }
  return out;
}

void read_generation_prompt(Fields& fields, const std::vector<ChatMessage>& messages,
                            GenerateRequest& request) {
  bool generation_prompt = true;
  const bool given = fields.boolean("add_generation_prompt", generation_prompt);
  fields.boolean("continue_final_message", request.continue_final_message);
  const bool last_is_ours = !messages.empty() && messages.back().role == "assistant";
  if (request.continue_final_message && (!last_is_ours || (given && generation_prompt))) {
    fields.refuse("continue_final_message",
                  "needs a last message of role assistant and no add_generation_prompt");
  } else if (!request.continue_final_message && !generation_prompt) {
    fields.refuse("add_generation_prompt", "can be false only with continue_final_message: true");
  } else if (!request.continue_final_message && last_is_ours) {
    fields.refuse("messages",
                  "must not end with role assistant: set continue_final_message to go on with it");
  }
}

}  // namespace troupe
