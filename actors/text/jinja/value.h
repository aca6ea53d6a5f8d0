#pragma once

#include "actors/text/jinja/text.h"

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace troupe::jinja {

struct Macro;
class Value;

/// Why a template could not be parsed or rendered. Thrown inside jinja/ only: ChatTemplate catches
/// it and returns an Error.
struct Failure : std::runtime_error {
  Failure(int32_t where, const std::string& what_happened)
      : std::runtime_error(what_happened), line(where) {}
  int32_t line = 0;            // 0 = not known yet, filled in by the statement around it
  bool from_template = false;  // what raise_exception said
};
[[noreturn]] inline void fail_with(const std::string& what_happened) {
  throw Failure(0, what_happened);
}

struct Undefined {
  std::string name;  // for messages
};
struct None {};

/// Lists and dicts nest at most this deep, so that printing and destroying them is bounded.
constexpr int32_t kMaxValueDepth = 64;
constexpr size_t kMaxDictItems = 1000;

struct List {
  std::vector<Value> items;
  bool tuple = false;
  int32_t depth = 1;
  int64_t weight = 1;
};
/// In insertion order. Lookup is linear: the dicts of a chat template have a handful of keys.
struct Dict {
  std::vector<std::pair<Value, Value>> items;
  int32_t depth = 1;
  int64_t weight = 1;
  bool is_namespace = false;  // the one mutable object; never part of another value
};
/// `loop` inside a for.
struct Loop {
  std::shared_ptr<const List> items;
  size_t index0 = 0;
};
/// A global function, a macro, or a method together with its object.
struct Callable {
  std::string name;
  std::shared_ptr<const Value> self;  // methods
  const Macro* macro = nullptr;       // lives in the parsed template
};

/// A template value. Cheap to copy: what is big is shared, and immutable except for namespaces.
class Value {
 public:
  using Data = std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const Text>,
                            std::shared_ptr<const List>, std::shared_ptr<Dict>,
                            std::shared_ptr<const Loop>, std::shared_ptr<const Callable>>;
  Value() = default;
  explicit Value(Data data) : data_(std::move(data)) {}

  static Value none() { return Value(None{}); }
  static Value undefined(std::string name) { return Value(Undefined{std::move(name)}); }
  static Value boolean(bool b) { return Value(Data(std::in_place_type<bool>, b)); }
  static Value integer(int64_t i) { return Value(Data(std::in_place_type<int64_t>, i)); }
  static Value number(double d) { return Value(Data(std::in_place_type<double>, d)); }
  static Value text(Text t) { return Value(std::make_shared<const Text>(std::move(t))); }
  static Value text(std::string_view t, Origin o = Origin::kTemplate) { return text(Text(t, o)); }
  /// Fail when nested too deep or when a namespace is among the items.
  static Value list(std::vector<Value> items, bool tuple = false);
  static Value dict(std::vector<std::pair<Value, Value>> items, bool is_namespace = false);
  static Value callable(std::string name, const Macro* macro = nullptr);
  static Value method(std::string name, Value self);

  [[nodiscard]] const Data& data() const { return data_; }
  template <class T>
  [[nodiscard]] bool is() const {
    return std::holds_alternative<T>(data_);
  }
  template <class T>
  [[nodiscard]] const T& as() const {
    return std::get<T>(data_);
  }
  // The big kinds; null when the value is of another kind.
  [[nodiscard]] const Text* as_text() const;
  [[nodiscard]] const List* as_list() const;
  [[nodiscard]] const Dict* as_dict() const;  // namespaces not included
  [[nodiscard]] Dict* as_namespace() const;
  [[nodiscard]] const Loop* as_loop() const;
  [[nodiscard]] const Callable* as_callable() const;
  [[nodiscard]] bool is_undefined() const { return is<Undefined>(); }
  [[nodiscard]] bool is_none() const { return is<None>(); }
  [[nodiscard]] bool is_number() const { return is<bool>() || is<int64_t>() || is<double>(); }
  /// bool and int; false for the rest.
  [[nodiscard]] bool as_integer(int64_t& out) const;
  [[nodiscard]] double as_double() const;  // of a number

  [[nodiscard]] bool truth() const;
  [[nodiscard]] int32_t depth() const;
  /// Bytes and items to visit when all of it is walked (shared parts count each time, saturating):
  /// what printing or comparing it costs.
  [[nodiscard]] int64_t weight() const;
  [[nodiscard]] std::string type_name() const;

 private:
  Data data_;
};

/// The value under `key`, or null.
const Value* find(const Dict& dict, std::string_view key);
const Value* find(const Dict& dict, const Value& key);

bool equal(const Value& a, const Value& b);
/// a < b as in Python; fails for kinds without an order.
bool less(const Value& a, const Value& b);

/// Python's str() and repr(): what {{ }} prints.
Text to_text(const Value& value);
Text to_repr(const Value& value);
/// json.dumps(value, ensure_ascii=False, indent=indent); indent < 0: on one line.
Text to_json(const Value& value, int64_t indent, bool sort_keys = false);

}  // namespace troupe::jinja
