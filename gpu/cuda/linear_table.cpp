#include "gpu/cuda/linear_table.h"

#include "gpu/cuda/device.h"

#include <nlohmann/json.hpp>

#include <cstring>
#include <fstream>
#include <limits>
#include <optional>

namespace troupe::cuda {
namespace {

using nlohmann::json;

constexpr size_t kLongestLine = 4096;
constexpr char kHexDigits[] = "0123456789abcdef";

std::string to_hex(const cublasLtMatmulAlgo_t& algorithm) {
  std::string out;
  for (const uint64_t word : algorithm.data) {
    for (int shift = 60; shift >= 0; shift -= 4) out += kHexDigits[(word >> shift) & 15];
  }
  return out;
}

std::optional<cublasLtMatmulAlgo_t> from_hex(const std::string& text) {
  cublasLtMatmulAlgo_t out = {};
  constexpr size_t kDigits = 16;
  if (text.size() != std::size(out.data) * kDigits) return std::nullopt;
  for (size_t i = 0; i < text.size(); ++i) {
    const char* digit = std::strchr(kHexDigits, text[i]);
    if (digit == nullptr || *digit == '\0') return std::nullopt;
    uint64_t& word = out.data[i / kDigits];
    word = word << 4 | static_cast<uint64_t>(digit - kHexDigits);
  }
  return out;
}

/// Whole numbers and texts of one line; anything else counts as absent.
class Line {
 public:
  explicit Line(const std::string& text) : tree_(json::parse(text, nullptr, false)) {}

  [[nodiscard]] int64_t number(const char* field) const { return number(find(field)); }
  [[nodiscard]] std::string text(const char* field) const {
    const json* value = find(field);
    return value != nullptr && value->is_string() ? value->get<std::string>() : "";
  }
  [[nodiscard]] std::vector<int64_t> numbers(const char* field) const {
    std::vector<int64_t> out;
    const json* list = find(field);
    if (list == nullptr || !list->is_array()) return out;
    for (const json& value : *list) out.push_back(number(&value));
    return out;
  }
  [[nodiscard]] double real(const char* field) const {
    const json* value = find(field);
    return value != nullptr && value->is_number() ? value->get<double>() : 0.0;
  }

 private:
  [[nodiscard]] const json* find(const char* field) const {
    if (!tree_.is_object()) return nullptr;
    const auto it = tree_.find(field);
    return it == tree_.end() ? nullptr : &*it;
  }
  static int64_t number(const json* value) {
    if (value == nullptr || !value->is_number_unsigned()) return -1;
    const auto n = value->get<uint64_t>();
    return n > static_cast<uint64_t>(std::numeric_limits<int32_t>::max()) ? -1
                                                                          : static_cast<int64_t>(n);
  }
  json tree_;
};

json head_of(const TuneKey& key) {
  return {{"gpu", key.gpu}, {"sms", key.sms}, {"driver", key.driver}, {"cublaslt", key.cublaslt}};
}

bool is_of(const Line& line, const TuneKey& key) {
  return line.text("gpu") == key.gpu && line.number("sms") == key.sms &&
         (key.driver == 0 || line.number("driver") == key.driver) &&
         line.number("cublaslt") == key.cublaslt;
}

std::optional<GemmShape> shape_of(const Line& line) {
  GemmShape s;
  s.rows = line.number("rows");
  s.cols = line.number("cols");
  s.n_tokens = static_cast<int32_t>(line.number("tokens"));
  s.format = line.text("format") == "fp8" ? WeightFormat::kFp8 : WeightFormat::kBf16;
  s.f32_out = line.text("out") == "f32";
  if (s.rows <= 0 || s.cols <= 0 || s.n_tokens <= 0) return std::nullopt;
  return s;
}

std::optional<TunedKernel> kernel_of(const Line& line) {
  TunedKernel out;
  out.us = line.real("us");
  if (line.text("kernel") == "stream") {
    const std::vector<int64_t> v = line.numbers("variant");
    if (v.size() != 6) return std::nullopt;
    const auto at = [&](size_t i) { return static_cast<int32_t>(v[i]); };
    out.kernel = StreamVariant{at(0), at(1), at(2), at(3), at(4), at(5)};
    return out;
  }
  if (line.text("kernel") == "wide") {
    const std::vector<int64_t> v = line.numbers("variant");
    if (v.size() != 3) return std::nullopt;
    const auto at = [&](size_t i) { return static_cast<int32_t>(v[i]); };
    out.kernel = WideVariant{at(0), at(1), at(2)};
    return out;
  }
  const auto algorithm = from_hex(line.text("algorithm"));
  if (!algorithm) return std::nullopt;
  out.kernel = *algorithm;
  return out;
}

}  // namespace

TuneKey TuneKey::of_current_device() {
  TuneKey key;
  int device = 0;
  cudaDeviceProp properties = {};
  TROUPE_CUDA(cudaGetDevice(&device));
  TROUPE_CUDA(cudaGetDeviceProperties(&properties, device));
  TROUPE_CUDA(cudaDriverGetVersion(&key.driver));
  key.gpu = properties.name;
  key.sms = properties.multiProcessorCount;
  key.cublaslt = static_cast<int64_t>(cublasLtGetVersion());
  return key;
}

TuneTable read_tune_table(const std::string& path, const TuneKey& key) {
  std::ifstream file(path);
  return read_tune_table(file, key);
}

TuneTable read_tune_table(std::istream& lines, const TuneKey& key) {
  TuneTable table;
  for (std::string text; std::getline(lines, text);) {
    if (text.size() > kLongestLine) continue;
    const Line line(text);
    if (!is_of(line, key)) continue;
    const auto shape = shape_of(line);
    const auto kernel = kernel_of(line);
    if (shape && kernel) table[*shape] = *kernel;
  }
  return table;
}

void write_tune_table(const std::string& path, const TuneKey& key, const TuneTable& table) {
  std::ofstream file(path, std::ios::trunc);
  for (const auto& [shape, tuned] : table) {
    json line = head_of(key);
    line["rows"] = shape.rows;
    line["cols"] = shape.cols;
    line["tokens"] = shape.n_tokens;
    line["format"] = shape.format == WeightFormat::kFp8 ? "fp8" : "bf16";
    line["out"] = shape.f32_out ? "f32" : "bf16";
    line["us"] = tuned.us;
    if (const auto* v = std::get_if<StreamVariant>(&tuned.kernel)) {
      line["kernel"] = "stream";
      line["variant"] = {v->tokens, v->rows, v->cluster, v->boxes, v->stages, v->persistent};
    } else if (const auto* wide = std::get_if<WideVariant>(&tuned.kernel)) {
      line["kernel"] = "wide";
      line["variant"] = {wide->width, wide->split, wide->shares_weights};
    } else {
      line["kernel"] = "cublaslt";
      line["algorithm"] = to_hex(std::get<cublasLtMatmulAlgo_t>(tuned.kernel));
    }
    file << line.dump() << '\n';
  }
}

}  // namespace troupe::cuda
