#pragma once

#include "gpu/base/result.h"

#include <nlohmann/json.hpp>

#include <string>

namespace troupe {

/// A JSON file (config.json and its kin) as a tree: an object at the top, at most 64 levels deep,
/// at most 32 MB. kNotFound, kIo; kBadModel naming the file when it is no such thing.
/// Values must still be checked for type and range where they are used: nlohmann's get<int>()
/// truncates.
Result<nlohmann::json> read_json_file(const std::string& path);

}  // namespace troupe
