#include "http/api/json_reader.h"

#include "gpu/base/check.h"

#include <array>
#include <charconv>
#include <utility>
#include <vector>

namespace troupe {
namespace {

constexpr size_t kMaxDepth = 32;

/// Builds the tree from parser events, which keeps depth and duplicate keys in our hands. The
/// parser itself does not recurse.
class BoundedBuilder final : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t& /*digits*/) override {
    return put(value);
  }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t& /*value*/) override { return refuse("binary values are not JSON"); }
  bool start_object(std::size_t /*size*/) override { return open(Json::object()); }
  bool start_array(std::size_t /*size*/) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    auto& members = open_.back()->get_ref<Json::object_t&>();
    const auto [member, fresh] = members.try_emplace(std::move(name), nullptr);
    if (!fresh) return refuse("a key is given twice in one object: " + member->first.substr(0, 64));
    slot_ = &member->second;
    return true;
  }

  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const Json::exception& /*error*/) override {
    return refuse("the body is not valid JSON (at byte " + std::to_string(position) + ")");
  }

  Json root;
  std::string error;

 private:
  bool refuse(std::string why) {
    error = std::move(why);
    return false;
  }

  /// Where the next value goes: the member whose key was just read, a new element, or the root.
  Json* place(Json&& value) {
    if (open_.empty()) {
      root = std::move(value);
      return &root;
    }
    if (open_.back()->is_array()) {
      return &open_.back()->get_ref<Json::array_t&>().emplace_back(std::move(value));
    }
    *slot_ = std::move(value);
    return slot_;
  }

  bool put(Json&& value) {
    place(std::move(value));
    return true;
  }

  bool open(Json&& container) {
    if (open_.size() == kMaxDepth) {
      return refuse("JSON nested deeper than " + std::to_string(kMaxDepth) + " levels");
    }
    open_.push_back(place(std::move(container)));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  // Containers that are open, outermost first. They stay where they are: only the innermost grows.
  std::vector<Json*> open_;
  Json* slot_ = nullptr;
};

/// "1", "0.5", "-2": limits as a user writes them.
std::string show(double value) {
  std::array<char, 32> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
  return {digits.data(), end};
}

}  // namespace

Result<Json> parse_json(std::string_view text) {
  if (text.empty()) {
    return fail(ErrorCode::kInvalidArgument, "the request body is empty: send a JSON object");
  }
  if (text.starts_with("\xEF\xBB\xBF")) {
    return fail(ErrorCode::kInvalidArgument,
                "the body starts with a byte order mark: leave it out");
  }
  BoundedBuilder builder;
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) {
    return fail(ErrorCode::kInvalidArgument, std::move(builder.error));
  }
  return std::move(builder.root);
}

bool is_off(const Json* value) {
  return value == nullptr || (value->is_boolean() && !value->get<bool>()) ||
         ((value->is_array() || value->is_object()) && value->empty()) ||
         (value->is_string() && value->get_ref<const std::string&>().empty());
}

Fields::Fields(const Json& object, std::string prefix)
    : object_(object), prefix_(std::move(prefix)) {
  TROUPE_CHECK(object.is_object());
}

const Json* Fields::find(std::string_view name) const {
  const auto& members = object_.get_ref<const Json::object_t&>();
  const auto member = members.find(name);
  return member == members.end() || member->second.is_null() ? nullptr : &member->second;
}

void Fields::refuse(std::string_view name, std::string message) {
  if (!ok()) return;
  std::string param = prefix_ + std::string(name);
  message = "'" + param + "' " + message;
  status_ = fail(ErrorCode::kInvalidArgument, std::move(message), std::move(param));
}

bool Fields::checked_integer(std::string_view name, int64_t min, int64_t max, int64_t& out) {
  const Json* value = ok() ? find(name) : nullptr;
  if (value == nullptr) return false;
  // The parser stores what exceeds int64 as unsigned, and what exceeds that as a float.
  const bool fits = value->is_number_integer() &&
                    (!value->is_number_unsigned() || value->get<uint64_t>() <= uint64_t{INT64_MAX});
  const int64_t number = fits ? value->get<int64_t>() : 0;
  if (!fits || number < min || number > max) {
    refuse(name, "must be an integer from " + std::to_string(min) + " to " + std::to_string(max));
    return false;
  }
  out = number;
  return true;
}

bool Fields::integer(std::string_view name, int64_t min, int64_t max, int32_t& out) {
  TROUPE_CHECK(min >= INT32_MIN && max <= INT32_MAX) << name;
  int64_t value = 0;
  if (!checked_integer(name, min, max, value)) return false;
  out = static_cast<int32_t>(value);
  return true;
}

bool Fields::integer(std::string_view name, int64_t min, int64_t max, uint64_t& out) {
  TROUPE_CHECK(min >= 0) << name;
  int64_t value = 0;
  if (!checked_integer(name, min, max, value)) return false;
  out = static_cast<uint64_t>(value);
  return true;
}

bool Fields::number(std::string_view name, double min, double max, float& out) {
  const Json* value = ok() ? find(name) : nullptr;
  if (value == nullptr) return false;
  const double number = value->is_number() ? value->get<double>() : 0.0;
  if (!value->is_number() || !(number >= min && number <= max)) {
    refuse(name, "must be a number from " + show(min) + " to " + show(max));
    return false;
  }
  out = static_cast<float>(number);
  return true;
}

bool Fields::boolean(std::string_view name, bool& out) {
  const Json* value = ok() ? find(name) : nullptr;
  if (value == nullptr) return false;
  if (!value->is_boolean()) {
    refuse(name, "must be true or false");
    return false;
  }
  out = value->get<bool>();
  return true;
}

bool Fields::string(std::string_view name, size_t max_bytes, std::string& out) {
  const Json* value = ok() ? find(name) : nullptr;
  if (value == nullptr) return false;
  if (!value->is_string()) {
    refuse(name, "must be a string");
    return false;
  }
  const auto& text = value->get_ref<const std::string&>();
  if (text.size() > max_bytes) {
    refuse(name, "must be at most " + std::to_string(max_bytes) + " bytes long");
    return false;
  }
  out = text;
  return true;
}

}  // namespace troupe
