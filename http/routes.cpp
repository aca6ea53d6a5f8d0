#include "http/routes.h"

#include "http/api/error.h"
#include "http/api/openai.h"
#include "http/head_check.h"

#include <array>
#include <optional>
#include <string_view>
#include <utility>

namespace troupe {
namespace {

using Answer = std::variant<HttpReply, GenerateCall>;
using Handler = Answer (*)(const HttpRequest&, const RouteContext&);

constexpr std::string_view kModels = "/v1/models";

Answer as_answer(Result<GenerateCall> call) {
  if (!call) return error_reply(call.error());
  return std::move(call).value();
}

Answer as_answer(Result<std::string> body) {
  if (!body) return error_reply(body.error());
  return HttpReply{.body = std::move(body).value()};
}

std::string_view bearer_key(const HttpRequest& request) {
  constexpr std::string_view kScheme = "Bearer ";
  const std::string_view given =
      request.authorization.empty() ? std::string_view() : request.authorization.front();
  const bool bearer =
      given.size() > kScheme.size() && iequals(given.substr(0, kScheme.size()), kScheme);
  return bearer ? given.substr(kScheme.size()) : std::string_view();
}

/// The number of the API key that the request carries, from 1; 0 without keys. The key has been
/// checked already.
uint64_t tenant_of(const HttpRequest& request, const RouteContext& context) {
  const std::string_view key = bearer_key(request);
  uint64_t tenant = 0;
  for (size_t i = 0; i < context.api_keys.size(); ++i) {
    if (constant_time_equal(key, context.api_keys[i])) tenant = i + 1;
  }
  return tenant;
}

OpenAiContext openai(const HttpRequest& request, const RouteContext& context) {
  return {context.engine, context.limits, request.request_id, tenant_of(request, context)};
}

Answer completions(const HttpRequest& request, const RouteContext& context) {
  return as_answer(parse_completion(request.body, openai(request, context)));
}

Answer chat(const HttpRequest& request, const RouteContext& context) {
  return as_answer(parse_chat(request.body, openai(request, context)));
}

Answer tokenize(const HttpRequest& request, const RouteContext& context) {
  return as_answer(answer_tokenize(request.body, openai(request, context)));
}

Answer detokenize(const HttpRequest& request, const RouteContext& context) {
  return as_answer(answer_detokenize(request.body, openai(request, context)));
}

Answer models(const HttpRequest& request, const RouteContext& context) {
  const ModelInfo& model = context.engine.model();
  if (request.path == kModels) return HttpReply{.body = model_list_json(model)};
  // Names may hold slashes ("org/model"), and clients may or may not escape them.
  const std::string_view wanted = std::string_view(request.path).substr(kModels.size() + 1);
  if (wanted == model.id) return HttpReply{.body = model_json(model)};
  return error_reply(fail(ErrorCode::kNotFound,
                          "this model does not exist here: GET /v1/models lists what is served",
                          "model"));
}

/// Later requests compute their prompts anew (vLLM has this route too).
Answer reset_prefix_cache(const HttpRequest& /*request*/, const RouteContext& context) {
  context.engine.reset_prefix_cache();
  return HttpReply{.body = R"({"status":"ok"})"};
}

/// The process answers, whatever state the engine is in.
Answer health(const HttpRequest& /*request*/, const RouteContext& /*context*/) {
  return HttpReply{.body = R"({"status":"ok"})"};
}

Answer ready(const HttpRequest& /*request*/, const RouteContext& context) {
  const EngineStats stats = context.engine.stats();
  if (stats.ready && !stats.draining) return HttpReply{.body = R"({"status":"ready"})"};
  return error_reply(fail(ErrorCode::kUnavailable,
                          stats.draining ? "the server is draining" : "no replica is ready yet"));
}

Answer metrics(const HttpRequest& /*request*/, const RouteContext& context) {
  return HttpReply{
      .body = metrics_text(context.engine.stats(), context.engine.model(), context.counters),
      .content_type = "text/plain; version=0.0.4; charset=utf-8"};
}

Answer version(const HttpRequest& /*request*/, const RouteContext& /*context*/) {
  return HttpReply{.body = R"({"version":")" TROUPE_VERSION R"("})"};
}

struct Route {
  std::string_view path;
  bool post;  // else GET and HEAD
  Handler handler;
};

constexpr std::array<Route, 10> kRoutes{{
    {"/v1/completions", true, completions},
    {"/v1/chat/completions", true, chat},
    {"/tokenize", true, tokenize},
    {"/detokenize", true, detokenize},
    {"/reset_prefix_cache", true, reset_prefix_cache},
    {kModels, false, models},
    {"/health", false, health},
    {"/ready", false, ready},
    {"/metrics", false, metrics},
    {"/version", false, version},
}};

const Route* find_route(std::string_view path) {
  for (const Route& r : kRoutes) {
    if (path == r.path) return &r;
    if (r.path == kModels && path.size() > kModels.size() + 1 && path.starts_with(kModels) &&
        path[kModels.size()] == '/') {
      return &r;
    }
  }
  return nullptr;
}

std::optional<HttpReply> check_key(const HttpRequest& request, const RouteContext& context) {
  if (context.api_keys.empty() || request.path == "/health" || request.path == "/ready") return {};
  if (request.authorization.size() > 1) {
    return error_reply(400, "bad_request", "more than one Authorization field");
  }
  const std::string_view key = bearer_key(request);
  bool match = false;
  for (const std::string& secret : context.api_keys) match |= constant_time_equal(key, secret);
  if (match) return {};
  HttpReply reply = error_reply(401, "invalid_api_key",
                                "missing or wrong API key: send 'Authorization: Bearer KEY'");
  reply.headers.emplace_back("WWW-Authenticate", "Bearer");
  return reply;
}

std::optional<HttpReply> check_body_type(const HttpRequest& request) {
  if (!request.content_encoding.empty() && !iequals(request.content_encoding, "identity")) {
    return error_reply(415, "unsupported_encoding", "send the body without Content-Encoding");
  }
  if (!is_json_type(request.content_type)) {
    return error_reply(415, "unsupported_media_type", "send 'Content-Type: application/json'");
  }
  return {};
}

}  // namespace

Answer route(const HttpRequest& request, const RouteContext& context) {
  if (auto refusal = check_key(request, context)) return *std::move(refusal);
  const Route* target = find_route(request.path);
  if (target == nullptr) {
    return error_reply(404, "not_found",
                       "no such route: see GET /v1/models, POST "
                       "/v1/completions, POST /v1/chat/completions");
  }
  const char* allow = target->post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
  if (request.method == "OPTIONS") {
    HttpReply reply{.status = 204, .body = {}, .content_type = {}};
    reply.headers.emplace_back("Allow", allow);
    return reply;
  }
  const bool get = request.method == "GET" || request.method == "HEAD";
  if (target->post ? request.method != "POST" : !get) {
    HttpReply reply =
        error_reply(405, "method_not_allowed", "this route does not take that method");
    reply.headers.emplace_back("Allow", allow);
    return reply;
  }
  if (target->post && target->handler != reset_prefix_cache) {  // which takes no body
    if (auto refusal = check_body_type(request)) return *std::move(refusal);
  }
  return target->handler(request, context);
}

}  // namespace troupe
