#pragma once

#include "launch/options.h"

#include <spdlog/logger.h>
#include <memory>

namespace troupe {

/// A logger on standard error; any thread. `source` goes into every line ("serve", "rank 1").
[[nodiscard]] std::unique_ptr<spdlog::logger> make_logger(const LogOptions& options,
                                                          const std::string& source);

}  // namespace troupe
