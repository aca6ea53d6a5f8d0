#pragma once

#include "gpu/base/result.h"
#include "http/message.h"

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace troupe {

/// How one ErrorCode looks to an HTTP client.
struct HttpErrorRow {
  ErrorCode code;
  int32_t status;
  std::string_view type;  // OpenAI's "type"
  std::string_view name;  // OpenAI's "code"
  bool retry;             // the client should come back: Retry-After is sent
};

/// The only place that maps ErrorCode to HTTP; in the order of the enumeration.
inline constexpr std::array<HttpErrorRow, 13> kHttpErrors{{
    {ErrorCode::kInvalidArgument, 400, "invalid_request_error", "invalid_value", false},
    {ErrorCode::kNotFound, 404, "invalid_request_error", "model_not_found", false},
    {ErrorCode::kContextLengthExceeded, 400, "invalid_request_error", "context_length_exceeded",
     false},
    {ErrorCode::kPayloadTooLarge, 413, "invalid_request_error", "payload_too_large", false},
    {ErrorCode::kQueueFull, 429, "rate_limit_error", "queue_full", true},
    {ErrorCode::kUnavailable, 503, "service_unavailable_error", "unavailable", true},
    {ErrorCode::kDeadlineExceeded, 504, "timeout_error", "deadline_exceeded", false},
    {ErrorCode::kCancelled, 503, "service_unavailable_error", "cancelled", false},
    {ErrorCode::kBadModel, 500, "server_error", "bad_model", false},
    {ErrorCode::kIo, 500, "server_error", "io_error", false},
    {ErrorCode::kOutOfMemory, 503, "service_unavailable_error", "out_of_memory", true},
    {ErrorCode::kDeviceFailed, 500, "server_error", "device_failed", false},
    {ErrorCode::kInternal, 500, "server_error", "internal_error", false},
}};

[[nodiscard]] const HttpErrorRow& http_error(ErrorCode code);

/// `{"error":{"message","type","param","code"}}`, always valid UTF-8; an empty param is null.
[[nodiscard]] std::string error_json(std::string_view message, std::string_view type,
                                     std::string_view param, std::string_view code);
[[nodiscard]] std::string error_json(const Error& error);

/// A whole answer for an Error, with Retry-After where that helps.
[[nodiscard]] HttpReply error_reply(const Error& error);

/// A whole answer for a fault of the HTTP exchange itself (405, 415, 431, ...).
[[nodiscard]] HttpReply error_reply(int32_t status, std::string_view code,
                                    std::string_view message);

}  // namespace troupe
