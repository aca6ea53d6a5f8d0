#pragma once

#include "gpu/model/gguf.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>

namespace troupe {

/// Reads forward through a GGUF header. Every read says whether it succeeded; the first failure
/// leaves a reason behind. Nothing is allocated that the bytes still unread could not fill.
class GgufReader {
 public:
  explicit GgufReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  [[nodiscard]] uint64_t position() const { return position_; }
  [[nodiscard]] uint64_t left() const { return bytes_.size() - position_; }
  /// Why the last read failed, with what to do about it.
  [[nodiscard]] const std::string& reason() const { return reason_; }
  /// The bytes make no sense. Returns false, to be passed on.
  bool damaged(const std::string& what) {
    return unsupported(what + ": the file is damaged or incomplete, fetch it again");
  }
  /// The bytes may be right but are nothing we can use; `what` says what to do.
  bool unsupported(std::string what) {
    reason_ = std::move(what);
    return false;
  }

  template <class T>
  bool number(T& out) {
    if (left() < sizeof(T)) return damaged("the file ends in the middle of its header");
    std::memcpy(&out, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return true;
  }

  bool text(std::string& out, uint64_t longest) {
    uint64_t size = 0;
    if (!number(size)) return false;
    if (size > left() || size > longest) {
      return damaged("a text of " + std::to_string(size) + " bytes does not fit");
    }
    out.resize(size);
    if (size != 0) std::memcpy(out.data(), bytes_.data() + position_, size);
    position_ += size;
    return true;
  }

  /// A typed metadata value.
  bool value(GgufValue& out);

 private:
  std::span<const std::byte> bytes_;
  uint64_t position_ = 0;
  std::string reason_;
};

}  // namespace troupe
