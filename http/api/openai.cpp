#include "http/api/openai.h"

#include "http/api/json_reader.h"
#include "http/api/json_writer.h"
#include "http/api/openai_writer.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <initializer_list>
#include <random>
#include <utility>

namespace troupe {
namespace {

constexpr size_t kMaxName = 256;
constexpr size_t kMaxText = SIZE_MAX;  // the body cap bounds it

int64_t unix_seconds() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

uint64_t random_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32 | device()) >> 1;
}

Result<Json> parse_object(std::string_view body) {
  Result<Json> parsed = parse_json(body);
  if (parsed && !parsed->is_object()) {
    return fail(ErrorCode::kInvalidArgument, "the request body must be a JSON object");
  }
  return parsed;
}

Status check_model(const Fields& fields, const ModelInfo& model) {
  const Json* value = fields.find("model");
  if (value == nullptr) return ok_status();
  if (!value->is_string()) {
    return fail(ErrorCode::kInvalidArgument, "'model' must be a string", "model");
  }
  const auto& name = value->get_ref<const std::string&>();
  if (name.empty() || name == model.id) return ok_status();
  return fail(ErrorCode::kNotFound,
              "the model '" + name.substr(0, 100) +
                  "' does not exist here: GET /v1/models lists "
                  "what is served",
              "model");
}

/// True for values that ask for nothing: absent, null, false, empty.
bool is_off(const Json* value) {
  return value == nullptr || (value->is_boolean() && !value->get<bool>()) ||
         ((value->is_array() || value->is_object()) && value->empty()) ||
         (value->is_string() && value->get_ref<const std::string&>().empty());
}

/// Known members that would change the answer and that this server does not have.
void refuse_unsupported(Fields& fields) {
  for (const char* name :
       {"tools", "functions", "function_call", "suffix", "prompt_logprobs", "use_beam_search",
        "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs",
        "chat_template", "chat_template_kwargs", "audio", "logits_processors"}) {
    if (!is_off(fields.find(name))) fields.refuse(name, "is not supported by this server");
  }
  const Json* choice = fields.find("tool_choice");
  if (choice != nullptr && *choice != "none" && *choice != "auto") {
    fields.refuse("tool_choice", "is not supported by this server");
  }
  const Json* format = fields.find("response_format");
  if (format != nullptr &&
      (!format->is_object() || format->value("type", Json()) != Json("text"))) {
    fields.refuse("response_format", "must be {\"type\": \"text\"}: nothing else is supported");
  }
}

/// A token id of the model, or -1.
int32_t token_id(const Json& value, const ModelInfo& model) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() >= static_cast<uint64_t>(model.vocab)) {
    return -1;
  }
  return static_cast<int32_t>(value.get<uint64_t>());
}

/// A list of token ids; the caller has seen that it is an array.
bool read_tokens(Fields& fields, std::string_view name, const Json& list, const ModelInfo& model,
                 std::vector<int32_t>& out) {
  out.reserve(list.size());
  for (const Json& value : list) {
    const int32_t id = token_id(value, model);
    if (id < 0) {
      fields.refuse(name, "must hold token ids from 0 to " + std::to_string(model.vocab - 1));
      return false;
    }
    out.push_back(id);
  }
  return true;
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

/// Everything about how tokens are chosen and when to end that both endpoints share.
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
  std::string user;
  fields.string("user", 1024, user);
}

int32_t read_n(Fields& fields, const ApiLimits& limits) {
  int32_t n = 1;
  fields.integer("n", 1, limits.max_n, n);
  int32_t best_of = n;
  fields.integer("best_of", 1, INT32_MAX, best_of);
  if (best_of != n) fields.refuse("best_of", "must equal n: picking the best is not supported");
  return n;
}

void read_stream(Fields& fields, bool& stream, OpenAiShape& shape) {
  fields.boolean("stream", stream);
  const Json* options = fields.find("stream_options");
  if (options == nullptr) return;
  if (!stream || !options->is_object()) {
    fields.refuse("stream_options", "must be an object, and only together with stream: true");
    return;
  }
  Fields inner(*options, "stream_options.");
  inner.boolean("include_usage", shape.include_usage);
  inner.boolean("continuous_usage_stats", shape.continuous_usage);
  if (!inner.ok()) fields.refuse("stream_options", "must hold true or false values");
  shape.continuous_usage = shape.continuous_usage && shape.include_usage;
}

/// One prompt per element, each a string or a list of token ids.
std::vector<Prompt> read_prompts(Fields& fields, const ModelInfo& model, const ApiLimits& limits) {
  std::vector<Prompt> prompts;
  const Json* value = fields.find("prompt");
  if (value == nullptr) {
    fields.refuse("prompt", "is required");
    return prompts;
  }
  const auto add = [&](const Json& one) {
    std::vector<int32_t> tokens;
    if (one.empty()) {  // before size(): a string is never empty() to the JSON library
      fields.refuse("prompt", "must not be empty");
    } else if (one.is_string()) {
      if (one.get_ref<const std::string&>().empty()) fields.refuse("prompt", "must not be empty");
      prompts.emplace_back(one.get<std::string>());
    } else if (one.is_array()) {
      if (read_tokens(fields, "prompt", one, model, tokens))
        prompts.emplace_back(std::move(tokens));
    } else {
      fields.refuse("prompt",
                    "must be a string, a list of strings, a list of token ids or a list of those");
    }
  };
  const bool many = value->is_array() && !value->empty() && !value->front().is_number();
  if (!many) {
    add(*value);
  } else if (value->size() > static_cast<size_t>(limits.max_choices)) {
    fields.refuse("prompt", "must hold at most " + std::to_string(limits.max_choices) + " prompts");
  } else {
    for (const Json& one : *value) {
      if (!fields.ok()) break;
      add(one);
    }
  }
  return prompts;
}

/// The text of one message: a string, or a list of {"type":"text","text":...} parts joined.
bool read_content(Fields& message, std::string& out) {
  const Json* content = message.find("content");
  if (content == nullptr || content->is_string()) {
    if (content == nullptr) message.refuse("content", "is required");
    return message.string("content", kMaxText, out);
  }
  if (!content->is_array()) {
    message.refuse("content", "must be a string or a list of text parts");
    return false;
  }
  for (const Json& part : *content) {
    if (!part.is_object() || part.value("type", Json()) != Json("text")) {
      message.refuse("content", "may only hold parts of type 'text'");
      return false;
    }
    const auto text = part.find("text");
    if (text == part.end() || !text->is_string()) {
      message.refuse("content", "has a text part without 'text'");
      return false;
    }
    out += text->get_ref<const std::string&>();
  }
  return true;
}

std::vector<ChatMessage> read_messages(Fields& fields, const ApiLimits& limits) {
  std::vector<ChatMessage> out;
  const Json* list = fields.find("messages");
  if (list == nullptr || !list->is_array() || list->empty() ||
      list->size() > static_cast<size_t>(limits.max_messages)) {
    fields.refuse("messages",
                  "must be a list of 1 to " + std::to_string(limits.max_messages) + " messages");
    return out;
  }
  for (const Json& item : *list) {
    const std::string where = "messages[" + std::to_string(out.size()) + "]";
    if (!item.is_object()) {
      fields.refuse(where, "must be an object");
      return out;
    }
    Fields message(item);
    ChatMessage& m = out.emplace_back();
    message.string("role", 64, m.role);
    if (m.role == "developer") m.role = "system";  // OpenAI's newer name for it
    if (m.role != "system" && m.role != "user" && m.role != "assistant" && m.role != "tool") {
      message.refuse("role", "must be system, user, assistant or tool");
    }
    if (!is_off(message.find("tool_calls"))) message.refuse("tool_calls", "is not supported");
    read_content(message, m.content);
    message.string("name", kMaxName, m.name);
    if (!message.ok()) {
      const Error& error = message.status().error();
      fields.refuse(where + "." + error.param, error.message.substr(error.param.size() + 3));
      return out;
    }
  }
  return out;
}

void read_generation_prompt(Fields& fields, const std::vector<ChatMessage>& messages,
                            GenerateRequest& request) {
  bool generation_prompt = true;
  const bool given = fields.boolean("add_generation_prompt", generation_prompt);
  fields.boolean("continue_final_message", request.continue_final_message);
  const bool last_is_ours = !messages.empty() && messages.back().role == "assistant";
  if (request.continue_final_message && (!last_is_ours || (given && generation_prompt))) {
    fields.refuse("continue_final_message",
                  "needs a last message of role assistant and no add_generation_prompt");
  } else if (!request.continue_final_message && !generation_prompt) {
    fields.refuse("add_generation_prompt", "can be false only with continue_final_message: true");
  } else if (!request.continue_final_message && last_is_ours) {
    fields.refuse("messages",
                  "must not end with role assistant: set continue_final_message to go on with it");
  }
}

/// Copies `base` once per prompt and choice and picks the writer.
GenerateCall fan_out(const GenerateRequest& base, const std::vector<Prompt>& prompts, bool stream,
                     OpenAiShape shape, const OpenAiContext& context) {
  GenerateCall call;
  call.stream = stream;
  call.requests.reserve(prompts.size() * static_cast<size_t>(shape.n));
  for (const Prompt& prompt : prompts) {
    for (int32_t i = 0; i < shape.n; ++i) {
      GenerateRequest& request = call.requests.emplace_back(base);
      request.prompt = prompt;
      request.sampling.seed = base.sampling.seed + static_cast<uint64_t>(i);
    }
  }
  shape.id = (shape.chat ? "chatcmpl-" : "cmpl-") + context.request_id;
  shape.model = context.engine.model().id;
  shape.created = unix_seconds();
  const size_t n_choices = call.requests.size();
  call.writer = stream ? openai_stream_writer(std::move(shape), n_choices)
                       : openai_full_writer(std::move(shape), n_choices);
  return call;
}

}  // namespace

Result<GenerateCall> parse_completion(std::string_view body, const OpenAiContext& context) {
  const Result<Json> json = parse_object(body);
  if (!json) return json.error();
  const ModelInfo& model = context.engine.model();
  Fields fields(*json);
  if (Status status = check_model(fields, model); !status) return status.error();
  refuse_unsupported(fields);

  OpenAiShape shape;
  bool stream = false;
  bool echo = false;
  GenerateRequest base;
  base.max_tokens = 16;
  fields.integer("max_tokens", 1, INT32_MAX, base.max_tokens);
  read_sampling(fields, model, context.limits, base);
  shape.n = read_n(fields, context.limits);
  shape.logprobs =
      fields.integer("logprobs", 0, context.limits.max_logprobs, base.sampling.n_logprobs);
  shape.top_logprobs = std::max(base.sampling.n_logprobs, 0);
  read_stream(fields, stream, shape);
  fields.boolean("echo", echo);
  if (echo && shape.logprobs) {
    fields.refuse("echo", "together with logprobs is not supported: there are none of the prompt");
  }
  std::vector<Prompt> prompts = read_prompts(fields, model, context.limits);
  const size_t n_choices = prompts.size() * static_cast<size_t>(shape.n);
  if (n_choices > static_cast<size_t>(context.limits.max_choices)) {
    fields.refuse("n", "times the number of prompts must be at most " +
                           std::to_string(context.limits.max_choices));
  }
  if (!fields.ok()) return fields.status().error();
  for (const Prompt& prompt : prompts) {
    if (!echo) break;
    const auto* text = std::get_if<std::string>(&prompt);
    const std::string shown =
        text != nullptr ? *text : context.engine.detokenize(std::get<std::vector<int32_t>>(prompt));
    for (int32_t i = 0; i < shape.n; ++i) shape.echo.push_back(shown);
  }
  return fan_out(base, prompts, stream, std::move(shape), context);
}

Result<GenerateCall> parse_chat(std::string_view body, const OpenAiContext& context) {
  const Result<Json> json = parse_object(body);
  if (!json) return json.error();
  const ModelInfo& model = context.engine.model();
  Fields fields(*json);
  if (Status status = check_model(fields, model); !status) return status.error();
  refuse_unsupported(fields);
  if (!model.has_chat_template) {
    return fail(ErrorCode::kInvalidArgument,
                "this model has no chat template: use /v1/completions");
  }

  OpenAiShape shape;
  shape.chat = true;
  bool stream = false;
  GenerateRequest base;
  fields.integer("max_tokens", 1, INT32_MAX, base.max_tokens);
  fields.integer("max_completion_tokens", 1, INT32_MAX, base.max_tokens);  // the newer name wins
  read_sampling(fields, model, context.limits, base);
  shape.n = read_n(fields, context.limits);
  fields.boolean("logprobs", shape.logprobs);
  fields.integer("top_logprobs", 0, context.limits.max_logprobs, shape.top_logprobs);
  if (shape.top_logprobs > 0 && !shape.logprobs) {
    fields.refuse("top_logprobs", "needs logprobs: true");
  }
  if (shape.logprobs) base.sampling.n_logprobs = shape.top_logprobs;
  read_stream(fields, stream, shape);
  std::vector<ChatMessage> messages = read_messages(fields, context.limits);
  read_generation_prompt(fields, messages, base);
  if (!fields.ok()) return fields.status().error();
  std::vector<Prompt> prompts;
  prompts.emplace_back(std::move(messages));
  return fan_out(base, prompts, stream, std::move(shape), context);
}

Result<std::string> answer_tokenize(std::string_view body, const OpenAiContext& context) {
  const Result<Json> json = parse_object(body);
  if (!json) return json.error();
  const ModelInfo& model = context.engine.model();
  Fields fields(*json);
  if (Status status = check_model(fields, model); !status) return status.error();
  Prompt prompt;
  if (fields.find("messages") != nullptr) {
    prompt = read_messages(fields, context.limits);
  } else {
    std::string text;
    if (!fields.string("prompt", kMaxText, text)) fields.refuse("prompt", "must be a string");
    prompt = std::move(text);
  }
  bool special = true;
  fields.boolean("add_special_tokens", special);
  if (!special) fields.refuse("add_special_tokens", "cannot be false");
  if (!fields.ok()) return fields.status().error();
  const Result<std::vector<int32_t>> tokens = context.engine.tokenize(prompt);
  if (!tokens) return tokens.error();
  std::string out = R"({"count":)";
  append_json_number(out, static_cast<int64_t>(tokens->size()));
  out += R"(,"max_model_len":)";
  append_json_number(out, model.max_context);
  out += R"(,"tokens":[)";
  for (size_t i = 0; i < tokens->size(); ++i) {
    if (i > 0) out += ',';
    append_json_number(out, (*tokens)[i]);
  }
  out += "]}";
  return out;
}

Result<std::string> answer_detokenize(std::string_view body, const OpenAiContext& context) {
  const Result<Json> json = parse_object(body);
  if (!json) return json.error();
  const ModelInfo& model = context.engine.model();
  Fields fields(*json);
  if (Status status = check_model(fields, model); !status) return status.error();
  std::vector<int32_t> tokens;
  const Json* list = fields.find("tokens");
  if (list == nullptr || !list->is_array()) {
    fields.refuse("tokens", "must be a list of token ids");
  } else {
    read_tokens(fields, "tokens", *list, model, tokens);
  }
  if (!fields.ok()) return fields.status().error();
  std::string out = R"({"prompt":)";
  append_json_string(out, context.engine.detokenize(tokens));
  out += '}';
  return out;
}

std::string model_json(const ModelInfo& model) {
  std::string out = R"({"id":)";
  append_json_string(out, model.id);
  out += R"(,"object":"model","created":)";
  append_json_number(out, model.created);
  out += R"(,"owned_by":"troupe","root":)";
  append_json_string(out, model.id);
  out += R"(,"parent":null,"max_model_len":)";
  append_json_number(out, model.max_context);
  out += '}';
  return out;
}

std::string model_list_json(const ModelInfo& model) {
  return R"({"object":"list","data":[)" + model_json(model) + "]}";
}

}  // namespace troupe
