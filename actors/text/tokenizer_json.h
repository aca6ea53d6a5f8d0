#pragma once

#include "actors/text/vocabulary.h"
#include "gpu/base/result.h"

#include <string>
#include <string_view>

namespace troupe {

/// The tokenizer of a Hugging Face directory: tokenizer.json, with tokenizer_config.json for bos,
/// eos and the chat template where there is one (empty text = no such file). Ids must be below
/// `max_vocab` (the model's embedding rows). kBadModel for anything malformed or not supported,
/// with the place named; no step of a tokenizer is skipped in silence.
Result<Vocabulary> vocabulary_from_json(std::string_view tokenizer_json,
                                        std::string_view tokenizer_config_json, int64_t max_vocab);

}  // namespace troupe
