// Workload files: the reading half of workload.h.

#include "actors/sim/workload.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <initializer_list>

namespace troupe {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;
constexpr int32_t kMaxLength = 1 << 26;

/// One request's fields; the first problem is kept.
class Fields {
 public:
  explicit Fields(const json& object) : object_(object) {}

  int32_t length(const char* name, bool required, int32_t otherwise) {
    const auto found = object_.find(name);
    if (found == object_.end()) {
      if (required) note(name, "is missing");
      return otherwise;
    }
    if (!found->is_number_unsigned() || found->get<uint64_t>() < 1 ||
        found->get<uint64_t>() > static_cast<uint64_t>(kMaxLength)) {
      note(name, "must be a whole number from 1 to " + std::to_string(kMaxLength));
      return otherwise;
    }
    return found->get<int32_t>();
  }
  double seconds(const char* name) {
    const auto found = object_.find(name);
    if (found == object_.end()) return 0;
    if (found->is_number() && found->get<double>() >= 0 && found->get<double>() < 1e9) {
      return found->get<double>();
    }
    note(name, "must be a number of seconds from 0");
    return 0;
  }
  void only(std::initializer_list<const char*> names) {
    for (const auto& [key, value] : object_.items()) {
      if (std::find(names.begin(), names.end(), key) == names.end()) {
        note("a field", "is not known");
      }
    }
  }
  void note(const std::string& name, const std::string& what) {
    if (problem_.empty()) problem_ = "'" + name + "' " + what;
  }
  [[nodiscard]] const std::string& problem() const { return problem_; }

 private:
  const json& object_;
  std::string problem_;
};

WorkloadRequest read_request(Fields& fields) {
  WorkloadRequest r;
  fields.only({"prompt_tokens", "output_tokens", "max_tokens", "arrival_s", "prefix_group",
               "prefix_tokens"});
  r.prompt_tokens = fields.length("prompt_tokens", true, 1);
  r.output_tokens = fields.length("output_tokens", true, 1);
  r.max_tokens = fields.length("max_tokens", false, r.output_tokens);
  r.arrival_s = fields.seconds("arrival_s");
  r.prefix_group = fields.length("prefix_group", false, -1);
  r.prefix_tokens = fields.length("prefix_tokens", r.prefix_group >= 0, 0);
  if (r.max_tokens < r.output_tokens) fields.note("max_tokens", "is below output_tokens");
  if (r.prefix_tokens > r.prompt_tokens) fields.note("prefix_tokens", "is above prompt_tokens");
  return r;
}

}  // namespace

Result<Workload> parse_workload(std::string_view text, const std::string& source) {
  Workload workload;
  workload.name = source;
  int64_t number = 0;
  const auto refuse = [&](const std::string& what) {
    return fail(ErrorCode::kInvalidArgument, source + ":" + std::to_string(number) + ": " + what,
                "--workload");
  };
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    if (number > 1 && line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const json object = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!object.is_object()) return refuse("not a JSON object");
    if (number == 1) {
      if (object.value("format", json()) != "troupe-workload") {
        return refuse("a workload begins with {\"format\":\"troupe-workload\",\"version\":1}");
      }
      if (const json version = object.value("version", json()); version != kVersion) {
        return refuse("version " + version.dump() + "; this program reads version " +
                      std::to_string(kVersion));
      }
      continue;
    }
    Fields fields(object);
    workload.requests.push_back(read_request(fields));
    if (!fields.problem().empty()) return refuse(fields.problem());
  }
  if (workload.requests.empty()) {
    ++number;
    return refuse("no requests");
  }
  std::stable_sort(
      workload.requests.begin(), workload.requests.end(),
      [](const WorkloadRequest& a, const WorkloadRequest& b) { return a.arrival_s < b.arrival_s; });
  return workload;
}

}  // namespace troupe
