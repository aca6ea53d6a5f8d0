#pragma once

#include "gpu/step.h"

#include <cstdint>
#include <span>

namespace troupe {

/// A number over everything in a plan and the tokens sampled for it. Ranks that ran the same plan
/// with the same outcome have the same number; ranks that drifted apart almost surely do not.
uint64_t step_digest(const StepPlan& plan, std::span<const SampledToken> sampled);

}  // namespace troupe
