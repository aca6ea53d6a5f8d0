#include "actors/router/admission.h"

#include "actors/router/planted_bug.h"
#include "gpu/base/check.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace troupe {
namespace {

// A pause costs about as much as a few percent of the pool for a while: see router_policy_bench.
constexpr double kLeastReserve = 2;
constexpr double kFirstReserve = 3;  // while lengths are unknown, all may be longer than thought
constexpr double kMostReserve = 4;
constexpr double kPauseRaises = 0.7;
constexpr double kEndLowers = 0.99;  // factor on what is above the least

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

Admission::Admission(int32_t max_rows)
    : rows_(static_cast<size_t>(max_rows)), reserve_(kFirstReserve) {}

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

double Admission::peak_with(const Share& share, int64_t claimed) const {
  double peak = 0;
  for (size_t k = 0; k < kHorizons; ++k) {
    const double mean = mean_[k] + static_cast<double>(share.mean[k]);
    const double variance = variance_[k] + static_cast<double>(share.variance[k]);
    peak = std::max(peak, mean + reserve_ * std::sqrt(std::max(0.0, variance)));
  }
  // Slots that no row accounts for: shared prefixes whose first user has gone, and the tokens
  // produced since the rows were set.
  return peak + static_cast<double>(std::max<int64_t>(0, claimed - own_));
}

double Admission::peak(int64_t claimed) const { return peak_with(Share(), claimed); }

bool Admission::fits(const Demand& demand, int64_t claimed, int64_t n_slots,
                     OutputEstimator& lengths) const {
  // At once, whatever the future brings: its known tokens and one more.
  if (claimed + demand.own + 1 > n_slots) return false;
  Share share;
  forecast(demand, lengths, share);
  const double peak = peak_with(TROUPE_BUG(7) ? Share() : share, claimed);
  return peak <= static_cast<double>(n_slots);
}

void Admission::check() const {
  int64_t own = 0;
  for (const Share& share : rows_) own += share.live ? share.own : 0;
  TROUPE_CHECK(own == own_) << own << " " << own_;
  for (size_t k = 0; k < kHorizons; ++k) {
    double mean = 0;
    for (const Share& share : rows_) mean += share.live ? static_cast<double>(share.mean[k]) : 0;
    TROUPE_CHECK(std::abs(mean - mean_[k]) <= 1e-6 * mean + 1e-3) << mean << " " << mean_[k];
  }
}

void Admission::paused() { reserve_ = std::min(kMostReserve, reserve_ + kPauseRaises); }

void Admission::ended() { reserve_ = kLeastReserve + (reserve_ - kLeastReserve) * kEndLowers; }

}  // namespace troupe
