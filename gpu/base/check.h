#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace troupe {

/// A device, collective or MPI call failed. Thrown inside the rank worker, caught there once.
class DeviceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {

/// Collects the values streamed into a failed check, then prints everything and aborts.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* expression);
  ~CheckFailure();  // aborts
  CheckFailure(const CheckFailure&) = delete;
  CheckFailure& operator=(const CheckFailure&) = delete;
  std::ostream& stream() { return text_; }

 private:
  std::ostringstream text_;
};

struct Voidify {
  void operator&(std::ostream&) const {}
};

}  // namespace detail
}  // namespace troupe

/// Aborts with file, line, expression and the streamed values when `condition` is false, in every
/// build type: `TROUPE_CHECK(slot < n) << slot << " of " << n;`. For broken invariants only.
// NOLINTBEGIN(bugprone-macro-parentheses): a stream is appended
#define TROUPE_CHECK(condition)               \
  (condition) ? static_cast<void>(0)          \
              : ::troupe::detail::Voidify{} & \
                    ::troupe::detail::CheckFailure(__FILE__, __LINE__, #condition).stream()
// NOLINTEND(bugprone-macro-parentheses)
