#include "launch/bench_statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace troupe {
namespace {

constexpr double kMilli = 1e3;

double quantile(const std::vector<double>& sorted, double q) {
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], at - static_cast<double>(below));
}

}  // namespace

Spread spread(std::vector<double> values) {
  Spread s;
  if (values.empty()) return s;
  std::sort(values.begin(), values.end());
  s.n = static_cast<int64_t>(values.size());
  s.mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(s.n);
  s.p50 = quantile(values, 0.5);
  s.p90 = quantile(values, 0.9);
  s.p99 = quantile(values, 0.99);
  return s;
}

LoadReport summarise(const std::vector<RequestRecord>& records, double slo_ttft, double slo_tpot) {
  LoadReport report;
  std::vector<double> ttft;
  std::vector<double> tpot;
  std::vector<double> itl;
  std::vector<double> e2e;
  double first_start = 0;
  double last_end = 0;
  for (const RequestRecord& r : records) {
    first_start = report.requests == 0 ? r.start : std::min(first_start, r.start);
    last_end = std::max(last_end, r.end);
    ++report.requests;
    if (!r.error.empty()) {
      ++report.failed;
      ++report.errors[r.error];
      continue;
    }
    report.input_tokens += r.input_tokens;
    report.output_tokens += r.output_tokens;
    // An answer whose tokens are no text at all shows its end only.
    const double first = r.pieces.empty() ? r.end : r.pieces.front();
    const double last = r.pieces.empty() ? r.end : r.pieces.back();
    ttft.push_back((first - r.start) * kMilli);
    e2e.push_back((r.end - r.start) * kMilli);
    bool good = slo_ttft <= 0 || ttft.back() <= slo_ttft;
    if (r.output_tokens > 1) {
      tpot.push_back((last - first) * kMilli / (r.output_tokens - 1));
      good = good && (slo_tpot <= 0 || tpot.back() <= slo_tpot);
    }
    for (size_t i = 1; i < r.pieces.size(); ++i) {
      itl.push_back((r.pieces[i] - r.pieces[i - 1]) * kMilli);
    }
    if (good) ++report.good;
  }
  report.ttft = spread(std::move(ttft));
  report.tpot = spread(std::move(tpot));
  report.itl = spread(std::move(itl));
  report.e2e = spread(std::move(e2e));
  report.seconds = last_end - first_start;
  if (report.seconds <= 0) return report;
  report.requests_per_s = static_cast<double>(report.requests - report.failed) / report.seconds;
  report.output_tokens_per_s = static_cast<double>(report.output_tokens) / report.seconds;
  report.total_tokens_per_s =
      static_cast<double>(report.input_tokens + report.output_tokens) / report.seconds;
  report.goodput = static_cast<double>(report.good) / report.seconds;
  return report;
}

}  // namespace troupe
