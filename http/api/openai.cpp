#include "http/api/openai.h"

#include "http/api/json_reader.h"
#include "http/api/json_writer.h"
#include "http/api/openai_writer.h"
#include "http/api/prompt_fields.h"
#include "http/api/sampling_fields.h"

#include <algorithm>
#include <chrono>
#include <initializer_list>
#include <utility>

namespace troupe {
namespace {

int64_t unix_seconds() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count();
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
      request.tenant = context.tenant;
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
  base.endpoint = 1;
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
