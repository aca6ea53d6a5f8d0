#pragma once

#include "actors/engine.h"

#include <string>

namespace troupe {

/// What GET /dashboard/state answers; dashboard.js is its only reader. Cells are run-length coded:
/// [cells, owner, slots in use of each, ...].
[[nodiscard]] std::string dashboard_state_json(const EngineSnapshot& snapshot,
                                               const EngineStats& stats, const ModelInfo& model);

}  // namespace troupe
