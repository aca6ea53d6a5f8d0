#pragma once

#include <mutex>
#include <utility>

namespace troupe {

/// The newest copy of a value that one thread writes and any thread reads.
template <class T>
class Published {
 public:
  void set(T value) {
    const std::lock_guard lock(mutex_);
    value_ = std::move(value);
  }
  [[nodiscard]] T get() const {
    const std::lock_guard lock(mutex_);
    return value_;
  }

 private:
  mutable std::mutex mutex_;
  T value_{};
};

}  // namespace troupe
