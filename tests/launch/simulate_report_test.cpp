// What `troupe simulate` prints: table, JSON, picture.
#include "launch/simulate_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstdlib>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace troupe {
namespace {

using nlohmann::ordered_json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

Split split(int32_t tp, int32_t dp, double tokens_per_s) {
  Split s;
  s.tp = tp;
  s.dp = dp;
  s.result.output_tokens_per_s = tokens_per_s;
  s.result.ttft_ms = {120.25, 100.5, 900.125};
  s.result.tpot_ms = {21.5, 20.25, 42.0625};
  s.result.kv_peak = 0.87654321;
  s.result.pauses = 17;
  s.result.finished = 1000;
  s.result.output_tokens = 2'000'000;
  s.result.wall_s = 0.5;
  return s;
}

Split unfit(int32_t tp, int32_t dp) {
  Split s;
  s.tp = tp;
  s.dp = dp;
  s.problem = "weights <need> \"more\" & more memory";
  return s;
}

TEST(SimulateReport, JsonHasTheDocumentedKeysFirstAndInOrder) {
  const auto json = ordered_json::parse(to_json(split(2, 4, 5165.04)));
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  ASSERT_GE(keys.size(), 7U);
  keys.resize(7);
  EXPECT_THAT(keys, ElementsAre("tp", "dp", "output_tokens_per_s", "ttft_ms", "tpot_ms", "kv_peak",
                                "pauses"));
  EXPECT_EQ(json["tp"], 2);
  EXPECT_EQ(json["dp"], 4);
  EXPECT_EQ(json["output_tokens_per_s"], 5165.0);
  EXPECT_EQ(json["ttft_ms"].dump(), R"({"mean":120.25,"p50":100.5,"p99":900.125})");
  EXPECT_EQ(json["tpot_ms"].dump(), R"({"mean":21.5,"p50":20.25,"p99":42.063})");
  EXPECT_EQ(json["kv_peak"], 0.8765);
  EXPECT_EQ(json["pauses"], 17);
  EXPECT_EQ(to_json(split(2, 4, 1)).find('\n'), std::string::npos);
}

TEST(SimulateReport, JsonOfASplitThatDoesNotFitSaysWhy) {
  const auto json = ordered_json::parse(to_json(unfit(1, 8)));
  EXPECT_EQ(json.size(), 3U);
  EXPECT_EQ(json["tp"], 1);
  EXPECT_EQ(json["dp"], 8);
  EXPECT_EQ(json["error"], "weights <need> \"more\" & more memory");
}

TEST(SimulateReport, TableHasALineForEverySplit) {
  Split failing = split(8, 1, 13181.4);
  failing.result.failed = 3;
  failing.result.first_error = "too long";
  const std::string table = to_table({unfit(1, 8), split(2, 4, 5165.04), failing});
  std::vector<std::string> lines;
  std::istringstream in(table);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  ASSERT_EQ(lines.size(), 7U) << table;
  EXPECT_EQ(table.back(), '\n');
  EXPECT_THAT(lines[0], HasSubstr("TTFT, ms"));
  EXPECT_THAT(lines[1], HasSubstr("tokens/s"));
  EXPECT_THAT(lines[2], HasSubstr("1 x 8: weights <need>"));
  EXPECT_THAT(lines[3], ::testing::MatchesRegex(
                            " +2 +4 \\| +5165 \\| +120 +10[01] +900 \\| +21.5 +20.2 +42.1 \\| "
                            "+88% \\| +17"));
  EXPECT_THAT(lines[4], HasSubstr("13181"));
  EXPECT_THAT(lines[5], HasSubstr("3 requests failed: too long"));
  EXPECT_EQ(lines[6], "simulated 4000000 output tokens in 1.00 s: 4.00 million a second");
  // Columns are where the heading has them.
  for (const size_t i : {3U, 4U}) EXPECT_EQ(lines[i].find('|'), lines[0].find('|'));
}

// -- the picture --

struct Element {
  std::string name;
  std::map<std::string, std::string> attributes;
  std::string text;
  [[nodiscard]] double number(const std::string& key) const {
    return std::strtod(attributes.at(key).c_str(), nullptr);
  }
};

/// The elements of a simple XML document; fails on anything that is not well-formed.
std::vector<Element> parse_xml(const std::string& xml) {
  std::vector<Element> all;
  std::vector<size_t> open;
  size_t at = 0;
  while (at < xml.size()) {
    if (xml[at] != '<') {
      EXPECT_NE(xml[at], '>') << at;
      if (xml[at] == '&') {
        const std::string entity = xml.substr(at, xml.find(';', at) + 1 - at);
        EXPECT_TRUE(entity == "&lt;" || entity == "&gt;" || entity == "&amp;") << entity;
      }
      if (!open.empty()) all[open.back()].text += xml[at];
      ++at;
      continue;
    }
    const size_t end = xml.find('>', at);
    if (end == std::string::npos) {
      ADD_FAILURE() << "an open tag at " << at;
      return all;
    }
    std::string tag = xml.substr(at + 1, end - at - 1);
    at = end + 1;
    if (tag.front() == '/') {
      if (open.empty() || all[open.back()].name != tag.substr(1)) {
        ADD_FAILURE() << "</" << tag << " closes nothing";
        return all;
      }
      open.pop_back();
      continue;
    }
    const bool closed = tag.back() == '/';
    if (closed) tag.pop_back();
    Element element;
    size_t space = tag.find(' ');
    element.name = tag.substr(0, space);
    while (space != std::string::npos && space + 1 < tag.size()) {
      const size_t equals = tag.find("=\"", space);
      const size_t quote = equals == std::string::npos ? equals : tag.find('"', equals + 2);
      if (quote == std::string::npos) {
        ADD_FAILURE() << "attributes: " << tag;
        return all;
      }
      const auto value = tag.substr(equals + 2, quote - equals - 2);
      EXPECT_TRUE(
          element.attributes.emplace(tag.substr(space + 1, equals - space - 1), value).second);
      EXPECT_EQ(value.find('<'), std::string::npos);
      space = tag.find(' ', quote);
    }
    all.push_back(std::move(element));
    if (!closed) open.push_back(all.size() - 1);
  }
  EXPECT_TRUE(open.empty());
  return all;
}

TEST(SimulateReport, SvgIsWellFormedAndDrawsEverySplit) {
  const std::vector<Split> splits = {unfit(1, 8), split(2, 4, 5000), split(4, 2, 10000)};
  const auto elements = parse_xml(to_svg(splits, "a <title> & more"));
  ASSERT_FALSE(elements.empty());
  EXPECT_EQ(elements[0].name, "svg");
  EXPECT_EQ(elements[0].attributes.at("xmlns"), "http://www.w3.org/2000/svg");
  const double width = elements[0].number("width");
  const double height = elements[0].number("height");
  std::string texts;
  std::vector<double> throughput;
  size_t bars = 0;
  for (const Element& e : elements) {
    if (e.name == "text") {
      texts += e.text + "\n";
      EXPECT_GE(e.number("x"), 0);
      EXPECT_LE(e.number("x"), width);
      EXPECT_GE(e.number("y"), 0);
      EXPECT_LE(e.number("y"), height);
    }
    if (e.name != "rect" || e.attributes.at("fill") == "white") continue;
    ++bars;
    EXPECT_GE(e.number("x"), 0);
    EXPECT_LE(e.number("x") + e.number("width"), width);
    EXPECT_GT(e.number("height"), 0);
    EXPECT_GE(e.number("y"), 0);
    EXPECT_LE(e.number("y") + e.number("height"), height);
    if (e.number("x") < width / 3) throughput.push_back(e.number("height"));
  }
  // Two splits: throughput, TTFT and TPOT, the latter two with a p99 behind.
  EXPECT_EQ(bars, 2U * 5);
  ASSERT_EQ(throughput.size(), 2U);
  EXPECT_NEAR(throughput[1] / throughput[0], 2, 0.01);
  for (const char* text :
       {"a &lt;title&gt; &amp; more", "output tokens/s", "TTFT, ms", "TPOT, ms", "1x8", "2x4",
        "4x2", "no fit", "5000", "10000", "100\n", "900\n", "20.2\n", "42.1\n"}) {
    EXPECT_THAT(texts, HasSubstr(text));
  }
}

TEST(SimulateReport, SvgOfNothingOrOfZerosIsStillAPicture) {
  for (const auto& splits : {std::vector<Split>{}, std::vector<Split>{split(1, 1, 0)},
                             std::vector<Split>{unfit(1, 1)}}) {
    const std::string svg = to_svg(splits, "t");
    EXPECT_EQ(parse_xml(svg)[0].name, "svg");
    EXPECT_THAT(svg, Not(HasSubstr("nan")));
    EXPECT_THAT(svg, Not(HasSubstr("inf")));
  }
}

}  // namespace
}  // namespace troupe
