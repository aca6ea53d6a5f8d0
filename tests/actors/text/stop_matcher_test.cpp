#include "actors/text/stop_matcher.h"

#include <gtest/gtest.h>
#include <random>

namespace troupe {
namespace {

struct Outcome {
  std::string text;
  bool stopped = false;
  std::string stop;
  bool operator==(const Outcome&) const = default;
};

/// The stop whose end comes first, the longest of those.
Outcome naive(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    const std::string seen = text.substr(0, end);
    std::string best;
    for (const std::string& stop : stops) {
      if (stop.size() > best.size() && seen.ends_with(stop)) best = stop;
    }
    if (!best.empty()) return {seen.substr(0, end - best.size()), true, best};
  }
  return {text, false, ""};
}

TEST(StopMatcher, EqualsNaiveSearchOverRandomChunks) {
  std::mt19937 rng(7);
  for (int round = 0; round < 3000; ++round) {
    const auto word = [&](size_t longest) {
      std::string s;
      for (size_t i = rng() % (longest + 1); i > 0; --i) s += static_cast<char>('a' + rng() % 2);
      return s;
    };
    std::vector<std::string> stops;
    for (size_t i = rng() % 5; i > 0; --i) stops.push_back(word(6));
    const std::string text = word(40);
    StopMatcher matcher(stops);
    Outcome got;
    for (size_t at = 0; at < text.size();) {
      const size_t n = 1 + rng() % 5;
      const auto out = matcher.push(std::string_view(text).substr(at, n));
      got.text += out.text;
      got.stopped = out.stopped;
      got.stop = out.stop;
      at += n;
    }
    if (!got.stopped) got.text += matcher.flush();
    ASSERT_EQ(got, naive(stops, text)) << text;
  }
}

TEST(StopMatcher, HoldsBackOnlyWhatCouldBeAStop) {
  StopMatcher matcher({"</end>"});
  EXPECT_EQ(matcher.push("one </").text, "one ");
  EXPECT_EQ(matcher.push("b> </e").text, "</b> ");
  EXPECT_EQ(matcher.flush(), "</e");
  EXPECT_EQ(matcher.flush(), "");
}

TEST(StopMatcher, SwallowsEverythingAfterAStop) {
  StopMatcher matcher({"END"});
  const auto out = matcher.push("text END more");
  EXPECT_TRUE(out.stopped);
  EXPECT_EQ(out.text, "text ");
  EXPECT_EQ(out.stop, "END");
  EXPECT_EQ(matcher.push("again").text, "");
  EXPECT_TRUE(matcher.push("again").stopped);
  EXPECT_EQ(matcher.flush(), "");
}

TEST(StopMatcher, WithoutStopsPassesEverythingOn) {
  StopMatcher matcher({""});
  EXPECT_EQ(matcher.push("abc").text, "abc");
  EXPECT_FALSE(matcher.push("").stopped);
  EXPECT_EQ(matcher.flush(), "");
}

TEST(StopMatcher, LeavesCharactersWhole) {
  StopMatcher matcher({"\xe2\x80\x99"});  // shares two bytes with the text's quote
  EXPECT_EQ(matcher.push("\xe2\x80\x9c").text, "\xe2\x80\x9c");
}

}  // namespace
}  // namespace troupe
