#include "actors/router/step_time.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace troupe {
namespace {

constexpr double kFade = 0.995;    // of what a step taught, with each further step of its kind
constexpr double kRidge = 1e-4;    // keeps directions that were never tried at zero
constexpr double kContext = 1e-4;  // context in units of 10,000 tokens: all features near 1
constexpr double kRows = 1e-2;
constexpr double kTokens = 1e-3;
constexpr double kTokenContext = 1e-7;

}  // namespace

template <int N>
void StepTime::Fit<N>::observe(const std::array<double, N>& x, double y) {
  for (size_t i = 0; i < N; ++i) {
    for (size_t j = 0; j < N; ++j) xx[i][j] = xx[i][j] * kFade + x[i] * x[j];
    xy[i] = xy[i] * kFade + x[i] * y;
  }
  ++n;
  if (n < 64 || n % 8 == 0) solve();
}

// Non-negative least squares by coordinate descent, from the last solution: more work never makes
// a step shorter.
template <int N>
void StepTime::Fit<N>::solve() {
  for (int sweep = 0; sweep < 16; ++sweep) {
    for (size_t i = 0; i < N; ++i) {
      double rest = xy[i];
      for (size_t j = 0; j < N; ++j) {
        if (j != i) rest -= xx[i][j] * solution[j];
      }
      solution[i] = std::max(0.0, rest / (xx[i][i] + kRidge));
    }
  }
}

template <int N>
double StepTime::Fit<N>::at(const std::array<double, N>& x) const {
  double sum = 0;
  for (size_t i = 0; i < N; ++i) sum += solution[i] * x[i];
  return sum;
}

double StepTime::decode_part(const StepShape& s) const {
  return decode_.at({1, s.decodes * kRows, static_cast<double>(s.decode_context) * kContext});
}

double StepTime::prefill_part(const StepShape& s) const {
  return prefill_.at({s.prefill * kTokens, static_cast<double>(s.prefill_context) * kTokenContext});
}

void StepTime::observe(const StepShape& s, uint32_t micros) {
  const double y = micros;
  if (s.prefill == 0) {
    decode_.observe({1, s.decodes * kRows, static_cast<double>(s.decode_context) * kContext}, y);
  } else {
    // Before any pure decode step the whole time counts as prefill's: too careful, for a moment.
    prefill_.observe({s.prefill * kTokens, static_cast<double>(s.prefill_context) * kTokenContext},
                     std::max(0.0, y - decode_part(s)));
  }
}

double StepTime::predict(const StepShape& s) const { return decode_part(s) + prefill_part(s); }

int32_t StepTime::chunk_within(double target, const StepShape& before, int32_t context,
                               int32_t most) const {
  const double room = target - predict(before);
  if (room <= 0) return 0;
  // linear * n + quadratic * (n * context + n^2 / 2) <= room
  const double quadratic = prefill_.solution[1] * kTokenContext;
  const double linear = prefill_.solution[0] * kTokens + quadratic * context;
  double n = most;
  if (quadratic > 0) {
    n = (std::sqrt(linear * linear + 2 * quadratic * room) - linear) / quadratic;
  } else if (linear > 0) {
    n = room / linear;
  }
  return static_cast<int32_t>(std::clamp(n, 0.0, static_cast<double>(most)));
}

}  // namespace troupe
