#include "http/framing.h"

#include "http/api/error.h"
#include "http/head_check.h"

#include <algorithm>
#include <random>
#include <string>

namespace troupe {
namespace {

std::string new_request_id() {
  std::random_device device;
  std::string id;
  for (int word = 0; word < 4; ++word) {
    uint32_t bits = device();
    for (int i = 0; i < 8; ++i, bits >>= 4) id += "0123456789abcdef"[bits & 15];
  }
  return id;
}

}  // namespace

size_t RequestHead::count(std::string_view name) const {
  return static_cast<size_t>(std::count_if(
      fields.begin(), fields.end(), [&](const auto& field) { return iequals(field.first, name); }));
}

std::optional<std::string_view> RequestHead::find(std::string_view name) const {
  for (const auto& [key, value] : fields) {
    if (iequals(key, name)) return value;
  }
  return {};
}

std::optional<HttpReply> check_framing(const RequestHead& head, int64_t max_body, Framing& out) {
  const auto bad = [](const char* why) { return error_reply(400, "bad_request", why); };
  out.version = head.version;
  const bool http11 = head.version == 11;
  const auto hosts = head.count("Host");
  if (hosts > 1 || (http11 && hosts == 0)) return bad("exactly one Host field is needed");
  const auto encodings = head.count("Transfer-Encoding");
  const auto lengths = head.count("Content-Length");
  if (encodings > 0) {
    const bool chunked = encodings == 1 && iequals(*head.find("Transfer-Encoding"), "chunked");
    if (!http11 || !chunked || lengths > 0) return bad("this Transfer-Encoding is not accepted");
  }
  if (lengths > 1) return bad("more than one Content-Length");
  if (lengths == 1) {
    const int64_t length = content_length_value(*head.find("Content-Length"));
    if (length < 0) return bad("a bad Content-Length");
    if (length > max_body) {
      return error_reply(fail(ErrorCode::kPayloadTooLarge,
                              "the body is larger than " + std::to_string(max_body) + " bytes"));
    }
    out.has_body = length > 0;
  }
  out.has_body = out.has_body || encodings > 0;
  if (const auto expect = head.find("Expect")) {
    if (!iequals(*expect, "100-continue")) {
      return error_reply(417, "expectation_failed", "only 'Expect: 100-continue' is understood");
    }
    out.expects_continue = http11;
  }
  out.keep_alive = head.keep_alive;

  HttpRequest& r = out.request;
  r.method = std::string(head.method);
  std::string_view target = head.target;
  if (target.starts_with("http://")) {  // absolute form, as sent through proxies
    const size_t slash = target.find('/', 7);
    target = slash == std::string_view::npos ? "/" : target.substr(slash);
  }
  r.path = std::string(target.substr(0, target.find('?')));
  r.content_type = std::string(head.find("Content-Type").value_or(""));
  r.content_encoding = std::string(head.find("Content-Encoding").value_or(""));
  for (const auto& [name, value] : head.fields) {
    if (iequals(name, "Authorization")) r.authorization.emplace_back(value);
  }
  const std::string_view id = head.find("X-Request-Id").value_or("");
  r.request_id = is_request_id(id) ? std::string(id) : new_request_id();
  return {};
}

}  // namespace troupe
