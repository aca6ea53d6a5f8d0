#pragma once

#include <array>
#include <cstdint>

namespace troupe {

/// What a step consists of, as far as its duration goes.
struct StepShape {
  int32_t decodes = 0;          // rows that compute one token
  int64_t decode_context = 0;   // tokens that those rows attend to, summed
  int32_t prefill = 0;          // tokens of prefill chunks
  int64_t prefill_context = 0;  // sum over chunk tokens of the tokens that each attends to
};

/// Learns how long steps take from what they took: seconds = base + decodes + context for steps
/// without prefill, and prefill tokens + their context for what prefill adds. Two small least
/// squares with fading memory; what a kind of step teaches is forgotten only by steps of that kind.
class StepTime {
 public:
  void observe(const StepShape& shape, uint32_t micros);
  /// True when enough has been seen to predict a decode step and a prefill.
  [[nodiscard]] bool knows() const { return knows_decodes() && prefill_.n >= 4; }
  [[nodiscard]] bool knows_decodes() const { return decode_.n >= 8; }
  /// Microseconds; 0 while nothing is known.
  [[nodiscard]] double predict(const StepShape& shape) const;
  /// The longest chunk starting at position `context`, from 0 to `most` tokens, that keeps the
  /// step within `target` microseconds.
  [[nodiscard]] int32_t chunk_within(double target, const StepShape& before, int32_t context,
                                     int32_t most) const;

 private:
  template <int N>
  struct Fit {
    std::array<std::array<double, N>, N> xx{};
    std::array<double, N> xy{};
    std::array<double, N> solution{};
    int32_t n = 0;
    void observe(const std::array<double, N>& x, double y);
    void solve();
    [[nodiscard]] double at(const std::array<double, N>& x) const;
  };
  [[nodiscard]] double decode_part(const StepShape& shape) const;
  [[nodiscard]] double prefill_part(const StepShape& shape) const;

  Fit<3> decode_;
  Fit<2> prefill_;
};

}  // namespace troupe
