#include "gpu/model/json_file.h"

#include "gpu/model/mapped_file.h"

#include <string_view>

namespace troupe {
namespace {

constexpr int64_t kMaxBytes = 32 << 20;
constexpr int kMaxDepth = 64;

/// Whether brackets nest deeper than kMaxDepth. The parser itself does not recurse, but copying or
/// destroying a deep tree would. In text that is no JSON the answer means nothing and harms
/// nothing.
bool too_deep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

}  // namespace

Result<nlohmann::json> read_json_file(const std::string& path) {
  const Result<std::string> text = read_small_file(path, kMaxBytes);
  if (!text) return text.error();
  if (too_deep(*text)) {
    return fail(ErrorCode::kBadModel, path + ": nested too deeply: the file is damaged");
  }
  nlohmann::json tree = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!tree.is_object()) {
    return fail(ErrorCode::kBadModel,
                path + ": not a JSON object: the file is damaged or incomplete, fetch it again");
  }
  return tree;
}

}  // namespace troupe
