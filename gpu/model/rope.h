#pragma once

#include "gpu/base/result.h"
#include "gpu/model/config.h"

#include <cstdint>
#include <string>
#include <vector>

namespace troupe {

/// How a model stretches its rotary embedding beyond the context it was trained with.
struct RopeScaling {
  enum class Kind { kNone, kLinear, kLlama3, kYarn };
  Kind kind = Kind::kNone;
  double factor = 1.0;
  double original_context = 0.0;  // llama3, yarn
  double low_frequency = 1.0;     // llama3
  double high_frequency = 4.0;    // llama3
  double beta_fast = 32.0;        // yarn
  double beta_slow = 1.0;         // yarn
  bool truncate = true;           // yarn: whole pair indices as the ends of the ramp
  double attention_factor = 0.0;  // yarn: magnitude; 0 = 0.1 ln(factor) + 1
  std::vector<float> divisors;    // GGUF rope_freqs.weight: one per pair, may be empty
};

/// Fills `rope` for `rotary_dim` dimensions and base `theta`, in double arithmetic.
/// linear: Chen et al., arXiv 2306.15595. yarn: Peng et al., arXiv 2309.00071, sections 3.2-3.4.
/// llama3: the low frequencies divided by `factor`, the high ones kept, linear in between (Llama
/// 3.1 model card). kBadModel with the field at fault when the numbers cannot be.
Status resolve_rope(RopeConfig& rope, int32_t rotary_dim, double theta, const RopeScaling& scaling);

}  // namespace troupe
