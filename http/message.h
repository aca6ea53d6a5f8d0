#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace troupe {

/// A request as the routes see it: framing is done, the body is complete.
struct HttpRequest {
  std::string method;
  std::string path;  // without query
  std::string content_type;
  std::string content_encoding;
  std::vector<std::string> authorization;  // every field of that name
  std::string body;
  std::string request_id;  // the client's own or a new one; safe to send back
};

struct HttpReply {
  int32_t status = 200;
  std::string body = {};
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers = {};
};

}  // namespace troupe
