#pragma once

#include "actors/text/vocabulary.h"

#include <string>
#include <string_view>
#include <vector>

namespace troupe {

/// Applies `steps` in order to a stretch of valid UTF-8. `at_start`: the prompt begins here.
[[nodiscard]] std::string normalize(const std::vector<NormalizerStep>& steps, std::string_view text,
                                    bool at_start);

}  // namespace troupe
