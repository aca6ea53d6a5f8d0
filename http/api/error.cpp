#include "http/api/error.h"

#include "gpu/base/check.h"
#include "http/api/json_writer.h"

namespace troupe {

const HttpErrorRow& http_error(ErrorCode code) {
  const auto index = static_cast<size_t>(code);
  TROUPE_CHECK(index < kHttpErrors.size() && kHttpErrors[index].code == code) << index;
  return kHttpErrors[index];
}

std::string error_json(std::string_view message, std::string_view type, std::string_view param,
                       std::string_view code) {
  std::string out = R"({"error":{"message":)";
  append_json_string(out, message);
  out += R"(,"type":)";
  append_json_string(out, type);
  out += R"(,"param":)";
  if (param.empty()) {
    out += "null";
  } else {
    append_json_string(out, param);
  }
  out += R"(,"code":)";
  append_json_string(out, code);
  out += "}}";
  return out;
}

std::string error_json(const Error& error) {
  const HttpErrorRow& row = http_error(error.code);
  return error_json(error.message, row.type, error.param, row.name);
}

HttpReply error_reply(const Error& error) {
  const HttpErrorRow& row = http_error(error.code);
  HttpReply reply{.status = row.status, .body = error_json(error)};
  if (row.retry) reply.headers.emplace_back("Retry-After", "1");
  return reply;
}

HttpReply error_reply(int32_t status, std::string_view code, std::string_view message) {
  const std::string_view type = status == 401  ? "authentication_error"
                                : status < 500 ? "invalid_request_error"
                                               : "server_error";
  return HttpReply{.status = status, .body = error_json(message, type, {}, code)};
}

}  // namespace troupe
