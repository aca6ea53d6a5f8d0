#pragma once

#include "actors/engine.h"
#include "http/api/call.h"
#include "http/message.h"
#include "http/metrics.h"

#include <string>
#include <variant>
#include <vector>

namespace troupe {

/// Everything the routes need, borrowed; outlives every request.
struct RouteContext {
  Engine& engine;
  const ApiLimits& limits;
  const std::vector<std::string>& api_keys;  // empty = no key needed
  const HttpCounters& counters;
};

/// Decides what a request gets: a finished answer, or a call that the session runs. Checks the key
/// first (all paths but /health, /ready and the files of /dashboard), then path, method, media type
/// and body. Any thread.
[[nodiscard]] std::variant<HttpReply, GenerateCall> route(const HttpRequest& request,
                                                          const RouteContext& context);

}  // namespace troupe
