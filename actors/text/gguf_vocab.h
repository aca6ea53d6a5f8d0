#pragma once

#include "actors/text/vocabulary.h"
#include "gpu/base/result.h"
#include "gpu/model/gguf.h"

#include <functional>
#include <map>
#include <string>

namespace troupe {

/// The tokenizer in a GGUF file's metadata (keys `tokenizer.ggml.*`, ggml's docs/gguf.md).
/// kBadModel when it is missing, malformed, or of a model or pre-tokenizer not listed here.
Result<Vocabulary> vocabulary_from_gguf(
    const std::map<std::string, GgufValue, std::less<>>& metadata);

}  // namespace troupe
