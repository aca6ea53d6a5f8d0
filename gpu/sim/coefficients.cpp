#include "gpu/sim/coefficients.h"

#include "gpu/model/mapped_file.h"
#include "gpu/sim/builtin_devices.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <set>

namespace troupe {
namespace {

using nlohmann::ordered_json;

constexpr int kFormat = 1;
constexpr int64_t kMaxBytes = 1 << 20;

/// Line of byte `at`, counted from 1.
int64_t line_of(std::string_view text, size_t at) {
  return 1 + std::count(text.begin(),
                        text.begin() + static_cast<int64_t>(std::min(at, text.size())), '\n');
}

/// Reads one file's fields; every problem names the line of the field.
class Reader {
 public:
  Reader(std::string_view text, std::string source) : text_(text), source_(std::move(source)) {}

  [[nodiscard]] Error problem_at(size_t at, const std::string& what) const {
    return fail(ErrorCode::kInvalidArgument,
                source_ + ":" + std::to_string(line_of(text_, at)) + ": " + what, "--coefficients");
  }
  [[nodiscard]] Error problem(const std::string& field, const std::string& what) const {
    const size_t at = text_.find("\"" + field + "\"");
    return problem_at(at == std::string_view::npos ? text_.size() : at,
                      "'" + printable(field) + "' " + what);
  }

  /// The object of the file, with every key exactly once.
  Result<ordered_json> parse() const {
    std::set<std::string> seen;
    std::string twice;
    const auto watch = [&](int depth, nlohmann::detail::parse_event_t event, ordered_json& value) {
      if (depth == 1 && event == nlohmann::detail::parse_event_t::key &&
          !seen.insert(value.get<std::string>()).second) {
        twice = value.get<std::string>();
      }
      return depth < 4;
    };
    try {
      ordered_json tree = ordered_json::parse(text_.begin(), text_.end(), watch);
      if (!tree.is_object()) return problem_at(0, "a coefficient file is one JSON object");
      if (!twice.empty()) return problem(twice, "is there twice");
      return tree;
    } catch (const ordered_json::parse_error& error) {
      return problem_at(error.byte, "not JSON: the file is damaged or cut short");
    } catch (const ordered_json::out_of_range& error) {
      // A number that no double holds; the message quotes it.
      const std::string_view what = error.what();
      const size_t open = what.find('\'');
      const std::string_view number = what.substr(open + 1, what.rfind('\'') - open - 1);
      return problem_at(text_.find(number), "a number out of range");
    }
  }

 private:
  std::string_view text_;
  std::string source_;
};

bool known(const std::string& key) {
  if (key == "format" || key == "device" || key == "about" || key == "sources" || key == "fitted") {
    return true;
  }
  const auto& list = coefficient_list();
  return std::any_of(list.begin(), list.end(), [&](const Coefficient& c) { return key == c.name; });
}

}  // namespace

const std::vector<Coefficient>& coefficient_list() {
  using D = DeviceCoefficients;
  static const std::vector<Coefficient> kList = {
      {"memory_bytes", &D::memory_bytes, 1e6, 1e16},
      {"memory_fraction", &D::memory_fraction, 0.01, 1},
      {"reserve_bytes", &D::reserve_bytes, 0, 1e15},
      {"weight_bytes_per_s_bf16", &D::weight_bytes_per_s_bf16, 1e6, 1e16},
      {"weight_bytes_per_s_fp8", &D::weight_bytes_per_s_fp8, 1e6, 1e16},
      {"gemm_flops_bf16", &D::gemm_flops_bf16, 1e6, 1e19},
      {"gemm_flops_fp8", &D::gemm_flops_fp8, 1e6, 1e19},
      {"roofline_exponent", &D::roofline_exponent, 1, 64},
      {"kv_bytes_per_s", &D::kv_bytes_per_s, 1e6, 1e16},
      {"attention_flops", &D::attention_flops, 1e6, 1e19},
      {"activation_bytes_per_s", &D::activation_bytes_per_s, 1e6, 1e16},
      {"all_reduce_latency_us", &D::all_reduce_latency_us, 0, 1e6},
      {"all_reduce_bytes_per_s", &D::all_reduce_bytes_per_s, 1e5, 1e16},
      {"layer_overhead_us", &D::layer_overhead_us, 0, 1e6},
      {"step_overhead_us", &D::step_overhead_us, 0, 1e7},
      {"row_overhead_us", &D::row_overhead_us, 0, 1e6},
  };
  return kList;
}

Result<DeviceCoefficients> parse_coefficients(std::string_view json, const std::string& source) {
  const Reader reader(json, source);
  const auto tree = reader.parse();
  if (!tree) return tree.error();
  const auto format = tree->find("format");
  if (format == tree->end() || !format->is_number_integer()) {
    return reader.problem("format", "is missing: this is no coefficient file");
  }
  if (*format != kFormat) {
    return reader.problem("format", "is " + format->dump() + "; this program reads format " +
                                        std::to_string(kFormat));
  }
  for (const auto& [key, value] : tree->items()) {
    if (!known(key)) return reader.problem(key, "is no coefficient of this program");
  }
  DeviceCoefficients out;
  const auto device = tree->find("device");
  if (device == tree->end() || !device->is_string()) {
    return reader.problem("device", "must be a text");
  }
  out.device = device->get<std::string>();
  for (const Coefficient& c : coefficient_list()) {
    const auto found = tree->find(c.name);
    if (found == tree->end()) return reader.problem(c.name, "is missing");
    if (!found->is_number()) return reader.problem(c.name, "must be a number");
    const double value = found->get<double>();
    if (!(value >= c.least && value <= c.most)) {
      return reader.problem(c.name, "is " + found->dump() + ", not between " +
                                        ordered_json(c.least).dump() + " and " +
                                        ordered_json(c.most).dump());
    }
    out.*c.value = value;
  }
  if (const auto fitted = tree->find("fitted"); fitted != tree->end()) {
    if (!fitted->is_array()) return reader.problem("fitted", "must be a list of names");
    for (const auto& name : *fitted) {
      if (!name.is_string() || !known(name.get<std::string>())) {
        return reader.problem("fitted", "must be a list of names of coefficients");
      }
      out.fitted.push_back(name.get<std::string>());
    }
  }
  return out;
}

std::string to_json(const DeviceCoefficients& coefficients) {
  ordered_json out;
  out["format"] = kFormat;
  out["device"] = coefficients.device;
  for (const Coefficient& c : coefficient_list()) out[c.name] = coefficients.*c.value;
  out["fitted"] = coefficients.fitted;
  return out.dump(2) + "\n";
}

std::vector<std::string> builtin_devices() {
  std::vector<std::string> names;
  for (const BuiltinDevice& device : kBuiltinDevices) names.emplace_back(device.name);
  return names;
}

Result<DeviceCoefficients> builtin_coefficients(const std::string& device) {
  std::string names;
  for (const BuiltinDevice& known_device : kBuiltinDevices) {
    if (device == known_device.name) return parse_coefficients(known_device.json, device);
    names += std::string(names.empty() ? "" : ", ") + known_device.name;
  }
  return fail(ErrorCode::kNotFound,
              "no device '" + printable(device) + "'; use " + names + " or --coefficients FILE",
              "--gpu");
}

Result<DeviceCoefficients> find_coefficients(const std::string& device, const std::string& file) {
  if (file.empty()) return builtin_coefficients(device);
  const auto text = read_small_file(file, kMaxBytes);
  if (!text) return text.error();
  return parse_coefficients(*text, file);
}

}  // namespace troupe
