#pragma once

#include "actors/text/jinja/value.h"

#include <cstdint>

namespace troupe::jinja {

/// What one rendering may still cost. Time and memory share one account: about one unit per byte
/// read or written, kItem per list item made, kStep per node evaluated.
class Budget {
 public:
  static constexpr int64_t kStep = 64;
  static constexpr int64_t kItem = 16;

  explicit Budget(int64_t units) : left_(units) {}

  void charge(int64_t units) {
    if (units < 0 || units > left_) fail_with("the template does too much work");
    left_ -= units;
  }
  void charge_bytes(size_t bytes) { charge(static_cast<int64_t>(bytes)); }
  /// `count` pieces of `size` each.
  void charge_product(int64_t count, int64_t size) {
    if (count <= 0 || size <= 0) return;
    if (count > left_ / size) fail_with("the template does too much work");
    charge(count * size);
  }
  void charge_items(size_t items) { charge_product(static_cast<int64_t>(items), kItem); }

 private:
  int64_t left_;
};

}  // namespace troupe::jinja
