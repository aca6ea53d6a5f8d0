#pragma once

#include "gpu/base/result.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace troupe {

using Json = nlohmann::json;

/// Parses one JSON text that nobody vouches for. Refused: what is not JSON (NaN, trailing bytes, a
/// byte order mark, invalid UTF-8, numbers beyond double), nesting deeper than 32, a key given
/// twice in one object. So the tree is safe to copy, walk and destroy.
[[nodiscard]] Result<Json> parse_json(std::string_view text);

constexpr size_t kMaxText = SIZE_MAX;  // for Fields::string: the body cap bounds it

/// True for values that ask for nothing: absent, null, false, empty.
[[nodiscard]] bool is_off(const Json* value);

/// Reads typed members of one JSON object. A member that is absent or null leaves the default. The
/// first bad member is kept in status(), and later reads do nothing.
class Fields {
 public:
  /// `prefix` is put before member names in `param`, e.g. "messages[3].". The object must outlive
  /// this.
  explicit Fields(const Json& object, std::string prefix = {});

  /// Integers only: 5.0, true and "5" are refused. True if a value was read.
  bool integer(std::string_view name, int64_t min, int64_t max, int32_t& out);
  bool integer(std::string_view name, int64_t min, int64_t max, uint64_t& out);
  /// Any JSON number within [min, max].
  bool number(std::string_view name, double min, double max, float& out);
  bool boolean(std::string_view name, bool& out);
  bool string(std::string_view name, size_t max_bytes, std::string& out);

  /// The member, or nullptr if it is absent or null.
  [[nodiscard]] const Json* find(std::string_view name) const;

  /// Notes that `name` is at fault (the first caller wins).
  void refuse(std::string_view name, std::string message);
  [[nodiscard]] bool ok() const { return status_.ok(); }
  [[nodiscard]] const Status& status() const { return status_; }

 private:
  bool checked_integer(std::string_view name, int64_t min, int64_t max, int64_t& out);

  const Json& object_;
  std::string prefix_;
  Status status_ = ok_status();
};

}  // namespace troupe
