#include "launch/api_keys.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string_view>

namespace troupe {
namespace {

constexpr std::string_view kWeight = "weight=";
constexpr double kLeastWeight = 0.01;
constexpr double kMostWeight = 1000;

/// The weight that a word asks for, 0 if it does not.
double weight_of(std::string_view word) {
  if (!word.starts_with(kWeight)) return 0;
  word.remove_prefix(kWeight.size());
  double weight = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), weight);
  const bool whole = error == std::errc{} && end == word.data() + word.size();
  return whole && weight >= kLeastWeight && weight <= kMostWeight ? weight : 0;
}

}  // namespace

Result<ApiKeys> read_api_keys(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    return fail(ErrorCode::kNotFound, "cannot read " + path + ": " + std::strerror(errno),
                "--api-key-file");
  }
  ApiKeys out;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    const std::string where = path + ", line " + std::to_string(++number) + ": ";
    std::istringstream words(line);
    std::string key;
    std::string word;
    if (!(words >> key) || key.front() == '#') continue;
    if (std::find(out.keys.begin(), out.keys.end(), key) != out.keys.end()) {
      return fail(ErrorCode::kInvalidArgument, where + "this key was there before",
                  "--api-key-file");
    }
    out.keys.push_back(std::move(key));
    if (!(words >> word)) continue;
    const double weight = weight_of(word);
    if (weight == 0 || words >> word) {
      return fail(ErrorCode::kInvalidArgument,
                  where + "after the key only weight=W may follow, W from 0.01 to 1000",
                  "--api-key-file");
    }
    if (weight != 1) out.weights[out.keys.size()] = weight;
  }
  if (out.keys.empty()) {
    return fail(ErrorCode::kInvalidArgument, path + " has no API key; write one a line",
                "--api-key-file");
  }
  return out;
}

}  // namespace troupe
