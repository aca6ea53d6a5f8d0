#pragma once

#include "gpu/base/result.h"
#include "launch/options.h"

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace troupe {

/// Declare the options of `simulate` and `replay`.
void add_simulate(CLI::App& app, SimulateCommand& simulate);
void add_replay(CLI::App& app, ReplayCommand& replay);

/// The numbers of --tp: each at least 1 and a divisor of `count`. The error says what to do.
[[nodiscard]] Result<std::vector<int32_t>> parse_tp_list(const std::string& text, int32_t count);

}  // namespace troupe
