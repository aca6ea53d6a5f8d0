#include "gpu/model/quantization.h"

#include "gpu/model/json_file.h"
#include "gpu/model/mapped_file.h"

#include <algorithm>
#include <utility>

namespace troupe {
namespace {

using nlohmann::json;

constexpr const char* kConfig = "config.json: 'quantization_config'";
constexpr const char* kModelOpt = "hf_quant_config.json: 'quantization'";

/// The text under `field`, or nothing.
std::string text_at(const json& object, const char* field) {
  if (!object.is_object()) return "";
  const auto it = object.find(field);
  return it != object.end() && it->is_string() ? printable(it->get<std::string>()) : "";
}

/// The value under `field`, null when there is none.
json value_at(const json& object, const char* field) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(field);
  return it == object.end() ? json(nullptr) : *it;
}

/// "4-bit int", "8-bit float".
std::string type_text(const json& arguments) {
  const json bits = value_at(arguments, "num_bits");
  const std::string type = text_at(arguments, "type");
  return (bits.is_number_unsigned() ? bits.dump() + "-bit " : std::string()) +
         (type.empty() ? "values of unknown type" : type);
}

bool is_float8(const json& arguments) {
  const json bits = value_at(arguments, "num_bits");
  return bits.is_number_unsigned() && bits == 8 && text_at(arguments, "type") == "float";
}

/// What is not supported about a compressed-tensors group; empty when it is.
std::string group_problem(const json& group) {
  const json weights = value_at(group, "weights");
  if (!weights.is_object()) return "a group without 'weights'";
  const std::string strategy = text_at(weights, "strategy");
  const bool coarse = strategy == "tensor" || strategy == "channel";
  if (is_float8(weights) && coarse) return "";
  return type_text(weights) + (coarse ? "" : " with one scale a " + strategy);
}

std::string compressed_tensors_problem(const json& q) {
  const json groups = value_at(q, "config_groups");
  if (!groups.is_object() || groups.empty()) return "compressed-tensors without 'config_groups'";
  for (const auto& group : groups) {
    const std::string problem = group_problem(group);
    if (problem.empty()) continue;
    const bool mixed = std::any_of(groups.begin(), groups.end(),
                                   [](const json& g) { return group_problem(g).empty(); });
    return std::string(mixed ? "a mix of fp8 and " : "") + problem + " (compressed-tensors)";
  }
  const std::string sparse = text_at(value_at(q, "sparsity_config"), "format");
  if (!sparse.empty() && sparse != "dense") return "sparse, " + sparse + " (compressed-tensors)";
  return "";
}

/// ModelOpt's algorithm by name.
std::string modelopt_problem(const json& q) {
  const std::string algorithm = text_at(q, "quant_algo");
  if (algorithm == "FP8" || algorithm == "FP8_PER_CHANNEL_PER_TOKEN") return "";
  if (algorithm == "MIXED_PRECISION") return "a mix of formats (ModelOpt MIXED_PRECISION)";
  return algorithm.empty() ? "ModelOpt without 'quant_algo'" : "ModelOpt " + algorithm;
}

std::string method_problem(const json& q) {
  const std::string method = text_at(q, "quant_method");
  const json bits = value_at(q, "bits");
  const std::string width = bits.is_number_unsigned() ? " of " + bits.dump() + " bits" : "";
  if (method == "compressed-tensors") return compressed_tensors_problem(q);
  if (method == "modelopt") return modelopt_problem(q);
  if (method == "awq") return "AWQ integers" + width;
  if (method == "gptq") return "GPTQ integers" + width;
  if (method == "fp8") {  // AutoFP8, and DeepSeek's blocks
    const json block = value_at(q, "weight_block_size");
    return block.is_null() ? "" : "fp8 with one scale a block of " + printable(block.dump());
  }
  return method.empty() ? "without 'quant_method'" : "'" + method + "'";
}

/// The KV cache's own scales are used, so they must be meant for e4m3.
std::string kv_problem(const json& q) {
  const json scheme = value_at(q, "kv_cache_scheme");
  if (!scheme.is_null() && !is_float8(scheme)) return "a KV cache of " + type_text(scheme);
  const std::string algorithm = text_at(q, "kv_cache_quant_algo");
  if (!algorithm.empty() && algorithm != "FP8") return "a KV cache of type " + algorithm;
  return "";
}

Status refuse(const std::string& directory, const char* where, const std::string& what) {
  return fail(ErrorCode::kBadModel,
              directory + "/" + where + " is " + what +
                  ": not supported; use the unquantised model, one in fp8 with a scale a tensor or "
                  "channel (compressed-tensors, ModelOpt, AutoFP8), or a GGUF file",
              "quantization_config");
}

}  // namespace

Status check_quantization(const json& config, const std::string& directory) {
  const json q = value_at(config, "quantization_config");
  if (!q.is_null()) {
    if (!q.is_object()) return refuse(directory, kConfig, "no object");
    std::string problem = method_problem(q);
    if (problem.empty()) problem = kv_problem(q);
    return problem.empty() ? ok_status() : refuse(directory, kConfig, problem);
  }
  const Result<json> file = read_json_file(directory + "/hf_quant_config.json");
  if (!file) {
    return file.error().code == ErrorCode::kNotFound ? ok_status() : Status(file.error());
  }
  const json modelopt = value_at(*file, "quantization");
  // Only the KV cache may be quantised: then there is no algorithm for the weights.
  const bool plain_weights = modelopt.is_object() && value_at(modelopt, "quant_algo").is_null() &&
                             !value_at(modelopt, "kv_cache_quant_algo").is_null();
  std::string problem = plain_weights ? "" : modelopt_problem(modelopt);
  if (problem.empty()) problem = kv_problem(modelopt);
  return problem.empty() ? ok_status() : refuse(directory, kModelOpt, problem);
}

}  // namespace troupe
