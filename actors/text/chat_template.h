#pragma once

#include "actors/engine.h"
#include "gpu/base/result.h"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace troupe {

/// A piece of a rendered conversation. Text that came out of a message (a user's words) must not
/// become a control token, text of the template may.
struct PromptPiece {
  std::string text;
  bool from_template = false;  // encode with parse_special
};

/// A model's Jinja chat template, parsed once. The interpreter covers the constructs that published
/// templates use and refuses the rest at load. Bounded in steps, output and depth. Immutable; any
/// thread.
class ChatTemplate {
 public:
  /// kBadModel with line and construct when the text is not understood.
  static Result<std::shared_ptr<const ChatTemplate>> parse(std::string_view source);
  ~ChatTemplate();

  struct Inputs {
    std::vector<ChatMessage> messages;
    bool add_generation_prompt = true;
    std::string bos_token;  // their texts
    std::string eos_token;
  };
  /// The pieces in order; adjacent pieces of one origin are merged. kInvalidArgument carries what
  /// the template's raise_exception said.
  [[nodiscard]] Result<std::vector<PromptPiece>> render(const Inputs& inputs) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace troupe
