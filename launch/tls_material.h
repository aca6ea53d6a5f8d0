#pragma once

#include "actors/node.h"
#include "gpu/base/result.h"

#include <string>

namespace troupe {

/// The credentials of one run, as PEM text: a certificate authority made for it (its key is thrown
/// away at once) and the one certificate and key that gateway and ranks show each other.
struct TlsMaterial {
  std::string certificate;
  std::string key;
  std::string ca;
};

/// Makes fresh EC P-256 material; takes about a millisecond.
[[nodiscard]] Result<TlsMaterial> make_tls_material();

/// PEM text under file names, for libraries that only read files. The files live in memory
/// (/proc/self/fd/N), so no key touches a disk and nothing is left behind however the process ends.
/// The names are valid as long as this object and in this process only.
class TlsMemoryFiles {
 public:
  /// Refuses (kInvalidArgument) what is not a certificate, its key and an authority: what loads the
  /// files would end the process.
  static Result<TlsMemoryFiles> create(const TlsMaterial& material);
  TlsMemoryFiles(TlsMemoryFiles&& other) noexcept;
  TlsMemoryFiles& operator=(TlsMemoryFiles&&) = delete;
  ~TlsMemoryFiles();

  [[nodiscard]] TlsFiles paths() const;

 private:
  TlsMemoryFiles() = default;
  int certificate_ = -1;
  int key_ = -1;
  int ca_ = -1;
};

}  // namespace troupe
