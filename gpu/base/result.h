#pragma once

#include <string>
#include <utility>
#include <variant>

namespace troupe {

/// Every way an operation can fail for a reason outside this program. One table maps them to HTTP
/// (http/api/error.h); keep both complete.
enum class ErrorCode {
  kInvalidArgument,        // a field of a request or an option has a bad value
  kNotFound,               // model, file, route
  kContextLengthExceeded,  // prompt + max_tokens do not fit the model or the pool
  kPayloadTooLarge,        // request body over the limit
  kQueueFull,              // come back later
  kUnavailable,            // no replica ready, or draining
  kDeadlineExceeded,       // the request's own deadline
  kCancelled,              // the client left
  kBadModel,               // a model file is malformed, incomplete or of an unknown kind
  kIo,                     // the operating system said no
  kOutOfMemory,            // with the numbers in the message
  kDeviceFailed,           // a rank's device or its peers failed in a step
  kInternal,               // a replica failed in a way that recovery did not cover
};

struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;  // one sentence that says what to do
  std::string param;    // the request field or option at fault, may be empty
};

/// Builds an Error; reads well in `return fail(ErrorCode::kIo, "...")`.
inline Error fail(ErrorCode code, std::string message, std::string param = {}) {
  return Error{code, std::move(message), std::move(param)};
}

/// A value or an Error (g++ 12 has no std::expected).
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}      // NOLINT(google-explicit-constructor)
  Result(Error error) : state_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] bool ok() const { return std::holds_alternative<T>(state_); }
  explicit operator bool() const { return ok(); }
  T& value() & { return std::get<T>(state_); }
  const T& value() const& { return std::get<T>(state_); }
  T&& value() && { return std::get<T>(std::move(state_)); }
  T* operator->() { return &std::get<T>(state_); }
  const T* operator->() const { return &std::get<T>(state_); }
  T& operator*() & { return std::get<T>(state_); }
  const T& operator*() const& { return std::get<T>(state_); }
  T&& operator*() && { return std::get<T>(std::move(state_)); }
  const Error& error() const { return std::get<Error>(state_); }

 private:
  std::variant<T, Error> state_;
};

/// Success or an Error, for operations without a value.
using Status = Result<std::monostate>;
inline Status ok_status() { return Status(std::monostate{}); }

}  // namespace troupe
