#pragma once

#include "actors/router/output_estimator.h"

#include <array>
#include <cstdint>
#include <vector>

namespace troupe {

/// What admission knows about one request.
struct Demand {
  int32_t request_class = 0;
  int32_t produced = 0;
  int32_t own = 0;   // slots that it alone accounts for, at the end of its prefill
  int32_t left = 0;  // output tokens that max_tokens still allows
};

/// Past-Future admission for one replica (after Gong et al., ASPLOS 2025, with a forecast instead
/// of random samples): the future use of the pool is forecast at fixed horizons of t steps; a
/// running request holds own + t slots with the probability that it still runs then, given what it
/// has produced already. A request is admitted when, with it, mean + reserve x standard deviation
/// fits at every horizon. The peak over horizons is the peak over finish orders: a request's
/// slots come back as it ends.
///
/// The sums are kept up to date row by row, so a decision costs O(horizons) however many requests
/// run. The reserve is smaller the more rows run, for then a pause hits a smaller share of them; a
/// pause raises it, requests that end lower it again.
class Admission {
 public:
  static constexpr size_t kHorizons = 64;

  explicit Admission(int32_t max_rows);

  /// Row `row` runs a request with this demand; again whenever it changed.
  void set(int32_t row, const Demand& demand, OutputEstimator& lengths);
  void clear(int32_t row);

  /// Whether the request fits besides the rows set. `claimed` is what the pool will hold when the
  /// running prefills are done; `n_slots` is its size.
  [[nodiscard]] bool fits(const Demand& demand, int64_t claimed, int64_t n_slots,
                          OutputEstimator& lengths) const;
  /// The same comparison in numbers, at the horizon where it is tightest: the request's slots there
  /// and what the others are predicted to leave.
  struct Tightest {
    int64_t need = 0;
    int64_t free = 0;
  };
  [[nodiscard]] Tightest tightest(const Demand& demand, int64_t claimed, int64_t n_slots,
                                  OutputEstimator& lengths) const;
  /// The forecast peak with the reserve, and without a new request.
  [[nodiscard]] double peak(int64_t claimed) const;

  /// The forecast peak if the request of this row left, with a reserve that is enough for a while:
  /// what is worth pausing for.
  [[nodiscard]] double peak_without(int32_t row, int64_t claimed) const;

  /// Aborts if the sums are not those of the rows. O(rows x horizons).
  void check() const;

  void paused();
  void ended();
  /// Standard deviations.
  [[nodiscard]] double reserve() const { return reserve_; }

 private:
  /// One request's share at each horizon: expectation and variance of its slots.
  struct Share {
    std::array<float, kHorizons> mean{};
    std::array<float, kHorizons> variance{};
    int32_t own = 0;
    bool live = false;
  };
  static void forecast(const Demand& demand, OutputEstimator& lengths, Share& share);
  [[nodiscard]] double peak_with(const Share& share, double sign, double reserve,
                                 int64_t claimed) const;
  void add(const Share& share, double sign);
  void size_reserve();

  std::vector<Share> rows_;
  std::array<double, kHorizons> mean_{};
  std::array<double, kHorizons> variance_{};
  int64_t own_ = 0;
  int32_t n_live_ = 0;
  double raised_ = 0;  // by pauses
  double reserve_ = 0;
};

}  // namespace troupe
