#include "actors/router/admission.h"

#include "actors/router/planted_bug.h"
#include "gpu/base/check.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace troupe {
namespace {

// Of a Gaussian sum about exp(-r^2 / 2) lies beyond r standard deviations, and of n rows one pause
// is 1 / n: r = sqrt(2 ln(kRows / n)) pauses the same part of the requests whatever n is. kRows is
// measured (router_policy_bench): few pauses where a percent of them is too much.
constexpr double kRows = 360;
constexpr double kLeastReserve = 1.5;
constexpr double kMostReserve = 2.2;  // a few rows are no Gaussian, and run out slowly
constexpr double kPauseRaises = 0.5;
constexpr double kMostRaised = 2;
constexpr double kEndLowers = 0.96;  // factor on what pauses have raised
constexpr double kPauseReserve = 1.5;

// 0, then six to a doubling from 16 to 4,096 steps and three to a doubling up to 131,072.
constexpr std::array<int32_t, Admission::kHorizons> kSteps = [] {
  std::array<int32_t, Admission::kHorizons> steps{};
  double at = 16;
  for (size_t k = 1; k < steps.size(); ++k) {
    steps[k] = static_cast<int32_t>(at);
    at *= at < 4095 ? 1.122462048309373 : 1.2599210498948732;  // 2^(1/6), 2^(1/3)
  }
  return steps;
}();

}  // namespace

Admission::Admission(int32_t max_rows) : rows_(static_cast<size_t>(max_rows)) { size_reserve(); }

void Admission::size_reserve() {
  const double part = kRows / std::max(1, n_live_);
  reserve_ = std::clamp(std::sqrt(2 * std::log(std::max(1.0, part))), kLeastReserve, kMostReserve) +
             raised_;
}

void Admission::forecast(const Demand& demand, OutputEstimator& lengths, Share& share) {
  const OutputEstimator::Survival survival = lengths.survival(demand.request_class);
  const float now = survival.at(demand.produced);
  size_t k = 0;
  for (bool last = false; k < kHorizons && !last; ++k) {
    // max_tokens ends it for certain: it is seen once more at its largest, and then no more.
    last = kSteps[k] >= demand.left;
    const int32_t t = std::min(kSteps[k], demand.left);
    const float p = std::min(1.0F, survival.at(demand.produced + t) / now);
    const auto held = static_cast<float>(demand.own + t);
    share.mean[k] = p * held;
    share.variance[k] = p * (1 - p) * held * held;
  }
  for (; k < kHorizons; ++k) share.mean[k] = share.variance[k] = 0;
  share.own = demand.own;
  share.live = true;
}

void Admission::add(const Share& share, double sign) {
  for (size_t k = 0; k < kHorizons; ++k) {
    mean_[k] += sign * static_cast<double>(share.mean[k]);
    variance_[k] += sign * static_cast<double>(share.variance[k]);
  }
  own_ += sign > 0 ? share.own : -share.own;
  n_live_ += sign > 0 ? 1 : -1;
  size_reserve();
}

void Admission::set(int32_t row, const Demand& demand, OutputEstimator& lengths) {
  Share& share = rows_[static_cast<size_t>(row)];
  if (share.live) add(share, -1);
  forecast(demand, lengths, share);
  add(share, 1);
}

void Admission::clear(int32_t row) {
  Share& share = rows_[static_cast<size_t>(row)];
  if (share.live && !TROUPE_BUG(2)) add(share, -1);
  share.live = false;
}

double Admission::peak_with(const Share& share, double sign, double reserve,
                            int64_t claimed) const {
  double peak = 0;
  for (size_t k = 0; k < kHorizons; ++k) {
    const double mean = mean_[k] + sign * static_cast<double>(share.mean[k]);
    const double variance = variance_[k] + sign * static_cast<double>(share.variance[k]);
    peak = std::max(peak, mean + reserve * std::sqrt(std::max(0.0, variance)));
  }
  // Slots that no row accounts for: shared prefixes whose first user has gone, and the tokens
  // produced since the rows were set.
  return peak + static_cast<double>(std::max<int64_t>(0, claimed - own_));
}

double Admission::peak(int64_t claimed) const { return peak_with(Share(), 1, reserve_, claimed); }

double Admission::peak_without(int32_t row, int64_t claimed) const {
  return peak_with(rows_[static_cast<size_t>(row)], -1, kPauseReserve, claimed);
}

bool Admission::fits(const Demand& demand, int64_t claimed, int64_t n_slots,
                     OutputEstimator& lengths) const {
  // At once, whatever the future brings: its known tokens and one more.
  if (claimed + demand.own + 1 > n_slots) return false;
  Share share;
  forecast(demand, lengths, share);
  const double peak = peak_with(TROUPE_BUG(7) ? Share() : share, 1, reserve_, claimed);
  return peak <= static_cast<double>(n_slots);
}

Admission::Tightest Admission::tightest(const Demand& demand, int64_t claimed, int64_t n_slots,
                                        OutputEstimator& lengths) const {
  Share share;
  forecast(demand, lengths, share);
  const auto unaccounted = static_cast<double>(std::max<int64_t>(0, claimed - own_));
  Tightest out{demand.own + 1, n_slots - claimed};  // now
  for (size_t k = 0; k < kHorizons; ++k) {
    const double others = mean_[k] + reserve_ * std::sqrt(std::max(0.0, variance_[k]));
    const double all =
        mean_[k] + static_cast<double>(share.mean[k]) +
        reserve_ * std::sqrt(std::max(0.0, variance_[k] + static_cast<double>(share.variance[k])));
    // Rounded so that need > free whenever fits() says no.
    const Tightest here{static_cast<int64_t>(std::ceil(all - others)),
                        n_slots - static_cast<int64_t>(std::ceil(others + unaccounted))};
    if (here.free - here.need < out.free - out.need) out = here;
  }
  return out;
}

void Admission::check() const {
  int64_t own = 0;
  std::array<double, kHorizons> mean{};
  for (const Share& share : rows_) {
    if (!share.live) continue;
    own += share.own;
    for (size_t k = 0; k < kHorizons; ++k) mean[k] += static_cast<double>(share.mean[k]);
  }
  TROUPE_CHECK(own == own_) << own << " " << own_;
  for (size_t k = 0; k < kHorizons; ++k) {
    TROUPE_CHECK(std::abs(mean[k] - mean_[k]) <= 1e-6 * mean[k] + 1e-3)
        << mean[k] << " " << mean_[k];
  }
}

void Admission::paused() {
  raised_ = std::min(kMostRaised, raised_ + kPauseRaises);
  size_reserve();
}

void Admission::ended() {
  raised_ *= kEndLowers;
  size_reserve();
}

}  // namespace troupe
