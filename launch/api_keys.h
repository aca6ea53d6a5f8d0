#pragma once

#include "gpu/base/result.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace troupe {

struct ApiKeys {
  std::vector<std::string> keys;
  /// Shares of keys that do not have the usual 1, by the key's number from 1: what the router knows
  /// as its tenant.
  std::map<uint64_t, double> weights;
};

/// --api-key-file: one key a line, optionally followed by `weight=W` with W from 0.01 to 1000.
/// Empty lines and lines that begin with # do not count. Anything else is refused with its line;
/// keys are never part of a message.
[[nodiscard]] Result<ApiKeys> read_api_keys(const std::string& path);

}  // namespace troupe
