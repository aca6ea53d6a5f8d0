#pragma once

#include "actors/engine.h"
#include "http/api/call.h"
#include "http/api/json_reader.h"

namespace troupe {

/// Everything about how tokens are chosen and when to end that completions and chat share.
/// `request.max_tokens` has been read before. What is wrong is noted in `fields`.
void read_sampling(Fields& fields, const ModelInfo& model, const ApiLimits& limits,
                   GenerateRequest& request);

}  // namespace troupe
