#pragma once

#include "gpu/base/result.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace troupe {

/// A regular file mapped privately and read-only for as long as this object lives. Pages are read
/// when touched and shared with every process that maps the file.
///
/// The size is taken once, at open. A file that is cut short or overwritten in place afterwards
/// cannot be defended against through a mapping: touching a page that is gone raises SIGBUS and
/// ends the process (the supervisor sees it like any death of a rank). Replace model files by
/// renaming a new one into place: the mapping then keeps the old file.
class MappedFile {
 public:
  /// kNotFound when absent, kIo when unreadable, kBadModel when empty or not a regular file.
  static Result<MappedFile> open(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }

 private:
  MappedFile(std::string path, std::span<const std::byte> bytes);
  std::string path_;
  std::span<const std::byte> bytes_;
};

/// A small text file in one piece. kNotFound, kIo; kBadModel when larger than `max_bytes`.
Result<std::string> read_small_file(const std::string& path, int64_t max_bytes);

/// `text` from a file made fit for a message: at most 80 bytes, others than printable ASCII as '?'.
std::string printable(std::string_view text);

}  // namespace troupe
