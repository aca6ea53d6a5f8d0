#include "launch/join_info.h"

#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <random>

namespace troupe {
namespace {

using nlohmann::json;

constexpr size_t kMaxBytes = 1 << 20;

/// Typed reads of one object that remember the first field at fault.
class Fields {
 public:
  explicit Fields(const json& object) : object_(object) {}

  std::string text(const char* name) {
    const auto it = object_.find(name);
    if (it != object_.end() && it->is_string()) return it->get<std::string>();
    note(name);
    return {};
  }
  bool boolean(const char* name) {
    const auto it = object_.find(name);
    if (it != object_.end() && it->is_boolean()) return it->get<bool>();
    note(name);
    return false;
  }
  template <class T>
  T integer(const char* name) {
    const auto it = object_.find(name);
    if (it != object_.end() && it->is_number_unsigned()) {
      const auto value = it->get<uint64_t>();
      if (value <= static_cast<uint64_t>(std::numeric_limits<T>::max())) {
        return static_cast<T>(value);
      }
    }
    note(name);
    return 0;
  }
  [[nodiscard]] const std::string& bad() const { return bad_; }

 private:
  void note(const char* name) {
    if (bad_.empty()) bad_ = name;
  }
  const json& object_;
  std::string bad_;
};

}  // namespace

uint64_t random_job() {
  std::random_device device;
  const uint64_t high = device();
  return (high << 32 | device()) | 1U;
}

std::string to_json(const JoinInfo& info) {
  const json object = {{"host", info.host},
                       {"port", info.port},
                       {"certificate", info.tls.certificate},
                       {"key", info.tls.key},
                       {"ca", info.tls.ca},
                       {"model", info.model},
                       {"device", info.shape.device},
                       {"sim_model", info.shape.sim_model},
                       {"threads", info.shape.threads},
                       {"kv_tokens", info.shape.kv_tokens},
                       {"kv", info.shape.kv},
                       {"weights", info.shape.weights},
                       {"dummy_weights", info.shape.dummy_weights},
                       {"exact", info.shape.exact},
                       {"max_rows", info.shape.max_rows},
                       {"max_step_tokens", info.shape.max_step_tokens},
                       {"first_gpu", info.first_gpu},
                       {"job", info.job}};
  return object.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

Result<JoinInfo> parse_join_info(const std::string& text, const std::string& source) {
  const json object = text.size() <= kMaxBytes ? json::parse(text, nullptr, false) : json();
  if (!object.is_object()) {
    return fail(ErrorCode::kInvalidArgument,
                source + " is not a join file; use the one that `troupe serve` names at its start");
  }
  Fields fields(object);
  JoinInfo info;
  info.host = fields.text("host");
  info.port = fields.integer<uint16_t>("port");
  info.tls = {fields.text("certificate"), fields.text("key"), fields.text("ca")};
  info.model = fields.text("model");
  info.shape.device = fields.text("device");
  info.shape.sim_model = fields.text("sim_model");
  info.shape.threads = fields.integer<int32_t>("threads");
  info.shape.kv_tokens = fields.integer<int32_t>("kv_tokens");
  info.shape.kv = fields.text("kv");
  info.shape.weights = fields.text("weights");
  info.shape.dummy_weights = fields.boolean("dummy_weights");
  info.shape.exact = fields.boolean("exact");
  info.shape.max_rows = fields.integer<int32_t>("max_rows");
  info.shape.max_step_tokens = fields.integer<int32_t>("max_step_tokens");
  info.first_gpu = fields.integer<int32_t>("first_gpu");
  info.job = fields.integer<uint64_t>("job");
  if (!fields.bad().empty()) {
    return fail(ErrorCode::kInvalidArgument,
                source + ": field '" + fields.bad() + "' is missing or of a wrong type");
  }
  return info;
}

Result<std::string> read_join_text(const std::string& path) {
  const bool standard_input = path == "-";
  const int fd = standard_input ? STDIN_FILENO : open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return fail(ErrorCode::kNotFound,
                "cannot read the join file " + path + ": " + std::strerror(errno));
  }
  std::string text;
  char buffer[4096];
  ssize_t n = 0;
  while ((n = read(fd, buffer, sizeof(buffer))) != 0 && text.size() <= kMaxBytes) {
    if (n > 0) text.append(buffer, static_cast<size_t>(n));
    if (n < 0 && errno != EINTR) break;
  }
  if (!standard_input) close(fd);
  if (text.empty()) {
    return fail(ErrorCode::kInvalidArgument,
                standard_input ? std::string("no join information on standard input")
                               : "the join file " + path + " is empty or cannot be read");
  }
  return text;
}

ExecutorOptions executor_options(const RankShape& shape, int32_t threads,
                                 const Environment& environment) {
  ExecutorOptions options;
  options.device = shape.device == "cuda" ? DeviceKind::kCuda : DeviceKind::kCpu;
  if (shape.device.starts_with(kSimPrefix)) {
    options.device = DeviceKind::kSim;
    options.sim_device = shape.device.substr(kSimPrefix.size());
    options.sim_model = shape.sim_model;
  }
  options.stored_weights = shape.weights == "auto";
  options.fp8_weights = shape.weights == "fp8";
  options.fp8_kv = shape.kv == "fp8";
  options.dummy_weights = shape.dummy_weights;
  options.weights = shape.exact ? WeightMode::kExact : WeightMode::kFast;
  options.kv = shape.kv == "f32" ? DType::kF32 : DType::kF16;
  options.n_threads = threads;
  options.n_slots = shape.kv_tokens;
  options.max_rows = shape.max_rows;
  options.max_step_tokens = shape.max_step_tokens;
  if (options.device == DeviceKind::kCuda && !environment.cache_dir.empty()) {
    std::error_code ignored;  // without the folder every start tunes anew
    std::filesystem::create_directories(environment.cache_dir, ignored);
    options.tune_file = environment.cache_dir + "/gpu_tune.jsonl";
  }
  return options;
}

}  // namespace troupe
