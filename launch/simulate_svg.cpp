// The picture of a simulation: three bar charts over the splits.

#include "launch/simulate_report.h"

#include <algorithm>
#include <cstdio>
#include <functional>

namespace troupe {
namespace {

constexpr double kWidth = 900, kHeight = 360, kTop = 60, kBottom = 50, kPanel = 300;

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '&': out += "&amp;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string text_at(double x, double y, const char* anchor, const std::string& text,
                    const char* colour = "black") {
  char head[160];
  std::snprintf(head, sizeof(head), "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" fill=\"%s\">",
                x, y, anchor, colour);
  return head + escaped(text) + "</text>\n";
}

constexpr double kBarRoom = kHeight - kTop - kBottom - 30;

std::string bar(double x, double width, double part, const char* colour) {
  const double height = part * kBarRoom;
  char line[160];
  std::snprintf(line, sizeof(line),
                "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"/>\n", x,
                kHeight - kBottom - height, width, height, colour);
  return line;
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), value >= 100 ? "%.0f" : "%.1f", value);
  return text;
}

/// Bars of one quantity: the value, and a lighter one behind it for its p99 when there is one.
std::string panel(const std::vector<Split>& splits, int index, const std::string& title,
                  const std::function<double(const SimulationResult&)>& value,
                  const std::function<double(const SimulationResult&)>& high) {
  double most = 0;
  for (const Split& s : splits) most = std::max({most, value(s.result), high(s.result)});
  if (most <= 0) most = 1;
  const double left = index * kPanel + 20;
  const double step = (kPanel - 40) / static_cast<double>(std::max<size_t>(splits.size(), 1));
  std::string out = text_at(left, kTop - 12, "start", title);
  for (size_t i = 0; i < splits.size(); ++i) {
    const SimulationResult& r = splits[i].result;
    const double x = left + step * static_cast<double>(i);
    const double middle = x + step * 0.4;
    out += text_at(middle, kHeight - kBottom + 18, "middle",
                   std::to_string(splits[i].tp) + "x" + std::to_string(splits[i].dp));
    if (!splits[i].problem.empty()) {
      out += text_at(middle, kHeight - kBottom - 6, "middle", "no fit");
      continue;
    }
    const double part = value(r) / most;
    const double base = kHeight - kBottom;
    if (high(r) > value(r)) {
      out += bar(x, step * 0.8, high(r) / most, "#c9d8ec");
      out += text_at(middle, base - high(r) / most * kBarRoom - 4, "middle", number(high(r)));
    }
    out += bar(x, step * 0.8, part, "#2f66a8");
    // Inside its bar when another one is above it.
    const bool inside = high(r) > value(r) && part * kBarRoom > 16;
    if (inside || high(r) <= value(r)) {
      out += text_at(middle, base - part * kBarRoom + (inside ? 14 : -4), "middle",
                     number(value(r)), inside ? "white" : "black");
    }
  }
  return out;
}

}  // namespace

std::string to_svg(const std::vector<Split>& splits, const std::string& title) {
  char head[256];
  std::snprintf(head, sizeof(head),
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
                "font-family=\"sans-serif\" font-size=\"12\">\n"
                "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
                kWidth, kHeight);
  std::string out = head;
  out += text_at(kWidth / 2, 22, "middle", title);
  out += panel(
      splits, 0, "output tokens/s", [](const SimulationResult& r) { return r.output_tokens_per_s; },
      [](const SimulationResult&) { return 0.0; });
  out += panel(
      splits, 1, "TTFT, ms: p50 (light: p99)",
      [](const SimulationResult& r) { return r.ttft_ms.p50; },
      [](const SimulationResult& r) { return r.ttft_ms.p99; });
  out += panel(
      splits, 2, "TPOT, ms: p50 (light: p99)",
      [](const SimulationResult& r) { return r.tpot_ms.p50; },
      [](const SimulationResult& r) { return r.tpot_ms.p99; });
  out += text_at(kWidth / 2, kHeight - 8, "middle", "TP x DP");
  return out + "</svg>\n";
}

}  // namespace troupe
