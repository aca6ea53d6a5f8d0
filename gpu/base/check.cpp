#include "gpu/base/check.h"

#include <cstdio>
#include <cstdlib>

namespace troupe::detail {

CheckFailure::CheckFailure(const char* file, int line, const char* expression) {
  text_ << file << ':' << line << ": check failed: " << expression << ' ';
}

CheckFailure::~CheckFailure() {
  text_ << '\n';
  std::fputs(text_.str().c_str(), stderr);
  std::fflush(stderr);
  std::abort();
}

}  // namespace troupe::detail
