#include "actors/router/output_estimator.h"

#include <algorithm>
#include <cstddef>

namespace troupe {
namespace {

constexpr float kPriorWeight = 4;    // requests that the carried rate counts for in each bin
constexpr float kCarriedEnds = 2;    // ends that the rate carried so far counts for
constexpr float kPooledWeight = 16;  // requests that all classes together count for in one class
constexpr float kFull = 1024;        // a bin that so many reached is halved
constexpr float kTiny = 1e-30F;

}  // namespace

OutputEstimator::OutputEstimator() : classes_(kClasses) {}

void OutputEstimator::observe(Counts& counts, int32_t bin, bool end) {
  const auto b = static_cast<size_t>(bin);
  (end ? counts.ended : counts.reached)[b] += 1;
  counts.news += end ? kStale : 1;
  if (counts.reached[b] < kFull) return;
  counts.reached[b] /= 2;
  counts.ended[b] /= 2;
}

void OutputEstimator::reached(int32_t request_class, int32_t bin) {
  observe(classes_[static_cast<size_t>(request_class)], bin, false);
  observe(all_, bin, false);
}

void OutputEstimator::ended(int32_t request_class, int32_t length) {
  observe(classes_[static_cast<size_t>(request_class)], bin(length), true);
  observe(all_, bin(length), true);
}

void OutputEstimator::rebuild(Counts& counts) {
  float rate = 1.0F / static_cast<float>(kPriorMean);  // ends per token, carried from bin to bin
  float survival = 1;
  for (size_t b = 0; b < kBins; ++b) {
    counts.survival[b] = survival;
    const auto bin = static_cast<int32_t>(b);
    const auto width = static_cast<float>(edge(bin + 1) - edge(bin));
    const float carried = std::min(1.0F, rate * width);
    const float pooled =
        (all_.ended[b] + kPriorWeight * carried) / (all_.reached[b] + kPriorWeight);
    rate = (all_.ended[b] + kCarriedEnds) / (all_.reached[b] * width + kCarriedEnds / rate);
    const float hazard =
        (counts.ended[b] + kPooledWeight * pooled) / (counts.reached[b] + kPooledWeight);
    survival = std::max(kTiny, survival * (1 - std::clamp(hazard, 0.0F, 1.0F)));
  }
  counts.survival[kBins] = survival;
  counts.news = 0;
}

OutputEstimator::Survival OutputEstimator::survival(int32_t request_class) {
  Counts& counts = classes_[static_cast<size_t>(request_class)];
  if (counts.news >= kStale) rebuild(counts);
  return Survival(counts.survival.data());
}

double OutputEstimator::expected(int32_t request_class, int32_t produced, int32_t left) {
  const Survival s = survival(request_class);
  const float now = s.at(produced);
  double sum = 0;
  int32_t at = produced;
  const int32_t end = produced + left;
  while (at < end) {
    const int32_t next = std::min(end, edge(bin(at) + 1));
    if (next <= at) break;  // beyond the last bin
    sum += 0.5 * static_cast<double>(next - at) * static_cast<double>(s.at(at) + s.at(next)) /
           static_cast<double>(now);
    at = next;
  }
  return sum;
}

}  // namespace troupe
