#include "launch/bench_workload.h"

#include <nlohmann/json.hpp>

#include <cmath>
#include <random>

namespace troupe {
namespace {

using nlohmann::json;
using Random = std::mt19937_64;

constexpr int32_t kFirstId = 100;  // below lie the special tokens of most vocabularies

// A token each in the vocabularies of the usual models.
constexpr const char* kWords[] = {
    "time", "way",   "year",  "work",  "world", "life",  "part",   "place", "case", "week",
    "hand", "point", "group", "fact",  "water", "money", "story",  "month", "book", "word",
    "side", "kind",  "head",  "house", "power", "hour",  "game",   "line",  "end",  "city",
    "name", "team",  "idea",  "body",  "back",  "face",  "level",  "car",   "door", "art",
    "war",  "party", "night", "home",  "room",  "area",  "market", "girl",  "food", "air"};

// std's distributions differ between libraries; these do not.
int32_t between(Random& random, int32_t low, int32_t high) {
  return low + static_cast<int32_t>(random() % static_cast<uint64_t>(high - low + 1));
}
double unit(Random& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

std::string words(Random& random, int32_t n) {
  std::string text;
  for (int32_t i = 0; i < n; ++i) {
    if (i > 0) text += ' ';
    text += kWords[random() % std::size(kWords)];
  }
  return text;
}

}  // namespace

std::vector<PlannedRequest> plan_load(const BenchServeCommand& bench, int32_t n, uint64_t seed) {
  Random random(seed);
  std::vector<PlannedRequest> plan;
  double arrival = 0;
  for (int32_t i = 0; i < n; ++i) {
    PlannedRequest request;
    request.arrival = arrival;
    request.input_tokens = between(random, bench.input.low, bench.input.high);
    request.output_tokens = between(random, bench.output.low, bench.output.high);
    request.seed = random();
    plan.push_back(request);
    const double gap = -std::log1p(-unit(random));  // drawn always, so that both loops plan alike
    if (bench.rate > 0) arrival += gap / bench.rate;
  }
  return plan;
}

std::string request_body(const BenchServeCommand& bench, const std::string& model,
                         const PlannedRequest& request) {
  Random random(request.seed);
  json body = {{"model", model},
               {"max_tokens", request.output_tokens},
               {"temperature", 0},
               {"stream", true},
               {"stream_options", {{"include_usage", true}}}};
  if (!bench.respect_eos) body["ignore_eos"] = true;
  if (bench.endpoint == "chat") {
    body["messages"] = {{{"role", "user"}, {"content", words(random, request.input_tokens)}}};
  } else if (bench.prompt == "words") {
    body["prompt"] = words(random, request.input_tokens);
  } else {
    json ids = json::array();
    for (int32_t i = 0; i < request.input_tokens; ++i) {
      ids.push_back(between(random, kFirstId, bench.vocab - 1));
    }
    body["prompt"] = std::move(ids);
  }
  return body.dump();
}

}  // namespace troupe
