#include "gpu/model/mapped_file.h"

#include <cerrno>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace troupe {
namespace {

constexpr size_t kLongestQuote = 80;

Error system_failure(const std::string& path, int error) {
  const std::string why = std::generic_category().message(error);
  if (error == ENOENT || error == ENOTDIR) {
    return fail(ErrorCode::kNotFound, path + ": no such file: check the path");
  }
  const char* what_to_do =
      error == ENOMEM ? "raise the memory limit (ulimit -v)" : "check its permissions";
  return fail(ErrorCode::kIo, path + ": cannot be read (" + why + "): " + what_to_do);
}

class Descriptor {
 public:
  // O_NONBLOCK: opening a named pipe must fail the check for a regular file, not wait for a writer.
  explicit Descriptor(const std::string& path)
      : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

MappedFile::MappedFile(std::string path, std::span<const std::byte> bytes)
    : path_(std::move(path)), bytes_(bytes) {}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) {
    // The cast is for munmap's signature; nothing is written.
    ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }
}

Result<MappedFile> MappedFile::open(const std::string& path) {
  const Descriptor file(path);
  if (file.get() < 0) return system_failure(path, errno);
  struct stat info = {};
  if (::fstat(file.get(), &info) != 0) return system_failure(path, errno);
  if (!S_ISREG(info.st_mode)) {
    return fail(ErrorCode::kBadModel, path + ": not a regular file: name a model file");
  }
  if (info.st_size <= 0) {
    return fail(ErrorCode::kBadModel, path + ": the file is empty: fetch it again");
  }
  const auto size = static_cast<size_t>(info.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (data == MAP_FAILED) return system_failure(path, errno);
  return MappedFile(path, std::span(static_cast<const std::byte*>(data), size));
}

Result<std::string> read_small_file(const std::string& path, int64_t max_bytes) {
  const Result<MappedFile> file = MappedFile::open(path);
  if (!file) return file.error();
  const auto bytes = file->bytes();
  if (static_cast<int64_t>(bytes.size()) > max_bytes) {
    return fail(ErrorCode::kBadModel, path + ": " + std::to_string(bytes.size()) +
                                          " bytes is too large for this kind of file (at most " +
                                          std::to_string(max_bytes) + ")");
  }
  std::string text(bytes.size(), '\0');
  for (size_t i = 0; i < bytes.size(); ++i) text[i] = static_cast<char>(bytes[i]);
  return text;
}

std::string printable(std::string_view text) {
  std::string out(text.substr(0, kLongestQuote));
  for (char& c : out) {
    if (c < ' ' || c > '~') c = '?';
  }
  if (text.size() > kLongestQuote) out += "...";
  return out;
}

}  // namespace troupe
