#include "actors/ssl_errors.h"

#include "gpu/base/check.h"

#include <dlfcn.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <utility>

namespace {

/// OpenSSL's own function of that name.
template <class Function>
Function* original(const char* name) {
  void* found = dlsym(RTLD_NEXT, name);
  TROUPE_CHECK(found != nullptr) << name;
  return reinterpret_cast<Function*>(found);
}

}  // namespace

extern "C" {

int SSL_read(SSL* ssl, void* buffer, int n) {
  static auto* const next = original<int(SSL*, void*, int)>("SSL_read");
  ERR_clear_error();
  // One read() of the kernel takes all that is there, not the head of a record and then its body.
  // What was read ahead wakes no epoll: the caller must read until it would block, which
  // SystemConfig tells CAF to do. From here on, since CAF reads once only after a handshake.
  SSL_set_read_ahead(ssl, 1);
  return next(ssl, buffer, n);
}

int SSL_write(SSL* ssl, const void* buffer, int n) {
  static auto* const next = original<int(SSL*, const void*, int)>("SSL_write");
  ERR_clear_error();
  return next(ssl, buffer, n);
}

int SSL_accept(SSL* ssl) {
  static auto* const next = original<int(SSL*)>("SSL_accept");
  ERR_clear_error();
  return next(ssl);
}

int SSL_connect(SSL* ssl) {
  static auto* const next = original<int(SSL*)>("SSL_connect");
  ERR_clear_error();
  return next(ssl);
}

}  // extern "C"

namespace troupe {

void separate_ssl_errors() {
  for (const auto& [name, ours] :
       {std::pair{"SSL_read", reinterpret_cast<void*>(&SSL_read)},
        std::pair{"SSL_write", reinterpret_cast<void*>(&SSL_write)},
        std::pair{"SSL_accept", reinterpret_cast<void*>(&SSL_accept)},
        std::pair{"SSL_connect", reinterpret_cast<void*>(&SSL_connect)}}) {
    TROUPE_CHECK(dlsym(RTLD_DEFAULT, name) == ours) << name << " is not ours";
  }
}

}  // namespace troupe
