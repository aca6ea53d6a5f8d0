#include "http/api/sampling_fields.h"

#include "http/api/prompt_fields.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <random>

namespace troupe {
namespace {

uint64_t random_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32 | device()) >> 1;
}

void read_logit_bias(Fields& fields, const ModelInfo& model, const ApiLimits& limits,
                     SamplingParams& sampling) {
  const Json* bias = fields.find("logit_bias");
  if (bias == nullptr) return;
  if (!bias->is_object() || bias->size() > static_cast<size_t>(limits.max_logit_bias)) {
    fields.refuse("logit_bias", "must be an object with at most " +
                                    std::to_string(limits.max_logit_bias) + " entries");
    return;
  }
  for (const auto& [key, value] : bias->get_ref<const Json::object_t&>()) {
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    const bool canonical = error == std::errc() && std::to_string(id) == key;
    if (!canonical || id < 0 || id >= model.vocab) {
      fields.refuse("logit_bias", "must have token ids from 0 to " +
                                      std::to_string(model.vocab - 1) + " as keys");
      return;
    }
    const double amount = value.is_number() ? value.get<double>() : 1e9;
    if (!(amount >= -100 && amount <= 100)) {
      fields.refuse("logit_bias", "must have numbers from -100 to 100 as values");
      return;
    }
    sampling.logit_bias.push_back({id, static_cast<float>(amount)});
  }
}

void read_stop(Fields& fields, const ModelInfo& model, const ApiLimits& limits,
               GenerateRequest& request) {
  const auto add = [&](const Json& value) {
    const auto size = value.is_string() ? value.get_ref<const std::string&>().size() : 0;
    if (size == 0 || size > static_cast<size_t>(limits.max_stop_bytes)) {
      fields.refuse(
          "stop", "must hold strings of 1 to " + std::to_string(limits.max_stop_bytes) + " bytes");
      return;
    }
    request.stop.push_back(value.get<std::string>());
  };
  if (const Json* stop = fields.find("stop"); stop != nullptr) {
    if (stop->is_string()) {
      add(*stop);
    } else if (stop->is_array() && stop->size() <= static_cast<size_t>(limits.max_stop)) {
      for (const Json& value : *stop) add(value);
    } else {
      fields.refuse("stop", "must be a string or a list of at most " +
                                std::to_string(limits.max_stop) + " strings");
    }
  }
  if (const Json* ids = fields.find("stop_token_ids"); ids != nullptr) {
    if (ids->is_array() && ids->size() <= static_cast<size_t>(limits.max_stop_tokens)) {
      read_tokens(fields, "stop_token_ids", *ids, model, request.stop_tokens);
    } else {
      fields.refuse("stop_token_ids", "must be a list of at most " +
                                          std::to_string(limits.max_stop_tokens) + " token ids");
    }
  }
}

/// How a request is to be served among others (extensions; `priority` and `cache_salt` as in vLLM).
void read_service(Fields& fields, GenerateRequest& request) {
  fields.integer("priority", INT32_MIN, INT32_MAX, request.priority);
  std::string salt;
  if (fields.string("cache_salt", 256, salt) && !salt.empty()) {
    request.cache_salt = std::hash<std::string>()(salt) | 1U;  // 0 is for requests without one
  }
  const auto target = [&](const char* name, std::chrono::milliseconds& out) {
    int32_t ms = 0;
    if (fields.integer(name, 1, INT32_MAX, ms)) out = std::chrono::milliseconds(ms);
  };
  target("ttft_target_ms", request.ttft_target);
  target("tpot_target_ms", request.tpot_target);
}

}  // namespace

void read_sampling(Fields& fields, const ModelInfo& model, const ApiLimits& limits,
                   GenerateRequest& request) {
  SamplingParams& s = request.sampling;
  fields.number("temperature", 0, 2, s.temperature);
  if (s.temperature < 1e-4F) s.temperature = 0;  // greedy, instead of logits that overflow
  // The smallest top_p that a float and a softmax can tell from 0.
  fields.number("top_p", 1e-6, 1, s.top_p);
  fields.number("min_p", 0, 1, s.min_p);
  fields.integer("top_k", -1, INT32_MAX, s.top_k);
  s.top_k = std::clamp(s.top_k, 0, model.vocab);  // -1 means off to some clients
  fields.number("repetition_penalty", 0.01, 10, s.repetition_penalty);
  fields.number("presence_penalty", -2, 2, s.presence_penalty);
  fields.number("frequency_penalty", -2, 2, s.frequency_penalty);
  if (!fields.integer("seed", 0, INT64_MAX, s.seed)) s.seed = random_seed();
  fields.integer("min_tokens", 0, INT32_MAX, s.min_tokens);
  if (request.max_tokens >= 0 && s.min_tokens > request.max_tokens) {
    fields.refuse("min_tokens", "must not be greater than max_tokens");
  }
  fields.boolean("ignore_eos", request.ignore_eos);
  fields.boolean("skip_special_tokens", request.skip_special_tokens);
  read_logit_bias(fields, model, limits, s);
  read_stop(fields, model, limits, request);
  request.deadline = limits.deadline;
  read_service(fields, request);
  std::string user;
  fields.string("user", 1024, user);
}

}  // namespace troupe
