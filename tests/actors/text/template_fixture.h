#pragma once

#include "actors/text/chat_template.h"

#include <nlohmann/json.hpp>

#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace troupe {

/// What make_template_goldens.py wrote.
inline nlohmann::json template_goldens(const std::string& name) {
  std::ifstream file(std::string(TROUPE_SOURCE_DIR) + "/tests/data/template/" + name);
  return nlohmann::json::parse(file);
}

inline std::vector<ChatMessage> messages_from(const nlohmann::json& turns) {
  std::vector<ChatMessage> messages;
  for (const auto& turn : turns) {
    messages.push_back({turn["role"], turn["content"], turn.value("name", "")});
  }
  return messages;
}

/// The inputs that the goldens were made with.
inline ChatTemplate::Inputs inputs_for(std::vector<ChatMessage> messages, bool prompt = true) {
  return {std::move(messages), prompt, "<s>", "</s>"};
}

inline Result<std::vector<PromptPiece>> render(std::string_view source,
                                               const ChatTemplate::Inputs& inputs) {
  auto parsed = ChatTemplate::parse(source);
  if (!parsed) return parsed.error();
  return (*parsed)->render(inputs);
}

inline std::string joined(const std::vector<PromptPiece>& pieces) {
  std::string text;
  for (const PromptPiece& piece : pieces) text += piece.text;
  return text;
}

}  // namespace troupe
