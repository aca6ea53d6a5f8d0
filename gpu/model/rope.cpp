#include "gpu/model/rope.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace troupe {
namespace {

constexpr double kTwoPi = 2.0 * std::numbers::pi;

Status bad(const std::string& field, const std::string& what) {
  return fail(ErrorCode::kBadModel, field + " " + what, field);
}

bool within(double x, double low, double high) { return x >= low && x <= high; }  // false for NaN

Status check(int32_t rotary_dim, double theta, const RopeScaling& s) {
  using Kind = RopeScaling::Kind;
  if (rotary_dim <= 0 || rotary_dim > 4096 || rotary_dim % 2 != 0) {
    return bad("rope dimension", "is " + std::to_string(rotary_dim) + ", not an even number");
  }
  if (!within(theta, 1.0 + 1e-6, 1e12)) return bad("rope theta", "is not between 1 and 1e12");
  if (!within(s.factor, 1e-3, 1e6))
    return bad("rope scaling factor", "is not between 1e-3 and 1e6");
  if (!s.divisors.empty() && s.divisors.size() != static_cast<size_t>(rotary_dim / 2)) {
    return bad("rope_freqs.weight", "has " + std::to_string(s.divisors.size()) +
                                        " values, not half of " + std::to_string(rotary_dim));
  }
  for (const float d : s.divisors) {
    if (!within(d, 1e-6, 1e6)) return bad("rope_freqs.weight", "has values that cannot be");
  }
  if (s.kind != Kind::kLlama3 && s.kind != Kind::kYarn) return ok_status();
  if (!within(s.original_context, 1.0, 1e9)) {
    return bad("rope scaling original context", "is not between 1 and 1e9");
  }
  if (s.kind == Kind::kLlama3 &&
      (!within(s.low_frequency, 1e-6, 1e6) || !within(s.high_frequency, 1e-6, 1e6) ||
       s.high_frequency <= s.low_frequency)) {
    return bad("rope scaling low_freq_factor", "and high_freq_factor are not in order");
  }
  if (s.kind == Kind::kYarn &&
      (!within(s.beta_fast, 1e-6, 1e6) || !within(s.beta_slow, 1e-6, 1e6) ||
       !within(s.attention_factor, 0.0, 1e3))) {
    return bad("rope scaling beta_fast", ", beta_slow or attention_factor cannot be");
  }
  return ok_status();
}

double llama3(double frequency, const RopeScaling& s) {
  const double rotations = s.original_context * frequency / kTwoPi;  // over the trained context
  if (rotations > s.high_frequency) return frequency;
  if (rotations < s.low_frequency) return frequency / s.factor;
  const double keep = (rotations - s.low_frequency) / (s.high_frequency - s.low_frequency);
  return (1.0 - keep) * frequency / s.factor + keep * frequency;
}

/// The pair index whose wave turns `rotations` times over the original context.
double yarn_pair(double rotations, double dim, double theta, double context) {
  return dim * std::log(context / (rotations * kTwoPi)) / (2.0 * std::log(theta));
}

}  // namespace

Status resolve_rope(RopeConfig& rope, int32_t rotary_dim, double theta,
                    const RopeScaling& scaling) {
  if (Status status = check(rotary_dim, theta, scaling); !status.ok()) return status;
  using Kind = RopeScaling::Kind;
  const double dim = rotary_dim;
  double low = 0.0;
  double high = 0.0;
  if (scaling.kind == Kind::kYarn) {
    low = yarn_pair(scaling.beta_fast, dim, theta, scaling.original_context);
    high = yarn_pair(scaling.beta_slow, dim, theta, scaling.original_context);
    if (scaling.truncate) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, dim - 1.0);
    if (low == high) high += 0.001;
  }
  rope.rotary_dim = rotary_dim;
  rope.magnitude = 1.0F;
  rope.inverse_frequency.clear();
  for (int32_t i = 0; i < rotary_dim / 2; ++i) {
    double frequency = std::pow(theta, -2.0 * i / dim);
    switch (scaling.kind) {
      case Kind::kNone: break;
      case Kind::kLinear: frequency /= scaling.factor; break;
      case Kind::kLlama3: frequency = llama3(frequency, scaling); break;
      case Kind::kYarn: {
        const double stretch = std::clamp((i - low) / (high - low), 0.0, 1.0);
        frequency = frequency / scaling.factor * stretch + frequency * (1.0 - stretch);
        break;
      }
    }
    if (!scaling.divisors.empty()) {
      frequency /= static_cast<double>(scaling.divisors[static_cast<size_t>(i)]);
    }
    rope.inverse_frequency.push_back(static_cast<float>(frequency));
  }
  if (scaling.kind == Kind::kYarn) {
    const double computed = scaling.factor > 1.0 ? 0.1 * std::log(scaling.factor) + 1.0 : 1.0;
    rope.magnitude =
        static_cast<float>(scaling.attention_factor > 0.0 ? scaling.attention_factor : computed);
  }
  return ok_status();
}

}  // namespace troupe
