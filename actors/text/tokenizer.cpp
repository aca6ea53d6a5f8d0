#include "actors/text/tokenizer.h"

#include "actors/text/gguf_vocab.h"
#include "actors/text/tokenizer_json.h"
#include "actors/text/vocabulary.h"
#include "gpu/model/checkpoint.h"
#include "gpu/model/gguf.h"

#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

namespace troupe {
namespace {

constexpr uintmax_t kMaxFile = uintmax_t{256} << 20U;

/// A text file; empty when there is none and it is `optional`.
Result<std::string> read_text(const std::filesystem::path& path, bool optional) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    if (optional) return std::string();
    return fail(ErrorCode::kBadModel, path.string() + " is missing");
  }
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error || size > kMaxFile) {
    return fail(ErrorCode::kBadModel, path.string() + " is no file of at most 256 MiB");
  }
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) return fail(ErrorCode::kIo, "cannot read " + path.string());
  return std::move(text).str();
}

Result<Vocabulary> vocabulary_from_directory(const std::filesystem::path& directory,
                                             int64_t max_vocab) {
  const Result<std::string> tokenizer = read_text(directory / "tokenizer.json", false);
  if (!tokenizer) return tokenizer.error();
  const Result<std::string> config = read_text(directory / "tokenizer_config.json", true);
  if (!config) return config.error();
  const Result<std::string> chat = read_text(directory / "chat_template.jinja", true);
  if (!chat) return chat.error();
  Result<Vocabulary> v = vocabulary_from_json(*tokenizer, *config, max_vocab);
  if (v && !chat->empty()) v->chat_template = *chat;
  return v;
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> Tokenizer::load(const Checkpoint& checkpoint) {
  const auto in_its_file = [&checkpoint](Error error) {
    if (!error.message.starts_with(checkpoint.path())) {
      error.message.insert(0, checkpoint.path() + ": ");
    }
    return error;
  };
  const GgufFile* gguf = checkpoint.gguf();
  const int64_t max_vocab = checkpoint.config().vocab;
  Result<Vocabulary> v = gguf != nullptr ? vocabulary_from_gguf(gguf->metadata())
                                         : vocabulary_from_directory(checkpoint.path(), max_vocab);
  if (!v) return in_its_file(v.error());
  if (static_cast<int64_t>(v->tokens.size()) > max_vocab) {
    return in_its_file(fail(ErrorCode::kBadModel,
                            "the tokenizer has " + std::to_string(v->tokens.size()) +
                                " tokens, the model's embedding " + std::to_string(max_vocab)));
  }
  auto tokenizer = make_tokenizer(std::move(*v));
  if (!tokenizer) return in_its_file(tokenizer.error());
  return tokenizer;
}

}  // namespace troupe
