#include "launch/tls_material.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <sys/mman.h>
#include <unistd.h>
#include <memory>
#include <utility>

namespace troupe {
namespace {

struct Free {
  void operator()(EVP_PKEY* p) const { EVP_PKEY_free(p); }
  void operator()(X509* p) const { X509_free(p); }
  void operator()(BIO* p) const { BIO_free(p); }
  void operator()(X509_EXTENSION* p) const { X509_EXTENSION_free(p); }
};
using Key = std::unique_ptr<EVP_PKEY, Free>;
using Certificate = std::unique_ptr<X509, Free>;
using Bio = std::unique_ptr<BIO, Free>;

constexpr long kSecondsBefore = 24L * 3600;        // clocks of other hosts may be behind
constexpr long kSecondsValid = 10L * 365 * 86400;  // a run may last; the key dies with it

bool add_extension(X509* certificate, X509* issuer, int id, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const std::unique_ptr<X509_EXTENSION, Free> extension(
      X509V3_EXT_conf_nid(nullptr, &context, id, value));
  return extension && X509_add_ext(certificate, extension.get(), -1) == 1;
}

/// A certificate for `key`, signed by `issuer_key`; `issuer` null = self-signed authority.
Certificate make_certificate(EVP_PKEY* key, const char* name, X509* issuer, EVP_PKEY* issuer_key) {
  Certificate certificate(X509_new());
  if (!certificate) return nullptr;
  X509* x = certificate.get();
  uint64_t serial = 0;
  if (RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof(serial)) != 1) return nullptr;
  X509_NAME* subject = X509_get_subject_name(x);
  const auto* text = reinterpret_cast<const unsigned char*>(name);
  const bool filled = X509_set_version(x, 2) == 1 &&
                      ASN1_INTEGER_set_uint64(X509_get_serialNumber(x), serial >> 1) == 1 &&
                      X509_gmtime_adj(X509_getm_notBefore(x), -kSecondsBefore) != nullptr &&
                      X509_gmtime_adj(X509_getm_notAfter(x), kSecondsValid) != nullptr &&
                      X509_set_pubkey(x, key) == 1 &&
                      X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, text, -1, -1, 0) == 1;
  if (!filled) return nullptr;
  X509* signer = issuer == nullptr ? x : issuer;
  if (X509_set_issuer_name(x, X509_get_subject_name(signer)) != 1) return nullptr;
  const bool extended =
      issuer == nullptr
          ? add_extension(x, signer, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
                add_extension(x, signer, NID_key_usage, "critical,keyCertSign") &&
                add_extension(x, signer, NID_subject_key_identifier, "hash")
          : add_extension(x, signer, NID_basic_constraints, "critical,CA:FALSE") &&
                add_extension(x, signer, NID_key_usage, "critical,digitalSignature") &&
                add_extension(x, signer, NID_ext_key_usage, "serverAuth,clientAuth") &&
                add_extension(x, signer, NID_authority_key_identifier, "keyid");
  if (!extended || X509_sign(x, issuer_key, EVP_sha256()) == 0) return nullptr;
  return certificate;
}

std::string text_of(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return size <= 0 ? std::string() : std::string(data, static_cast<size_t>(size));
}

std::string pem(X509* certificate) {
  const Bio bio(BIO_new(BIO_s_mem()));
  return bio && PEM_write_bio_X509(bio.get(), certificate) == 1 ? text_of(bio.get())
                                                                : std::string();
}

std::string pem(EVP_PKEY* key) {
  const Bio bio(BIO_new(BIO_s_mem()));
  const bool written =
      bio && PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) == 1;
  return written ? text_of(bio.get()) : std::string();
}

Certificate parse_certificate(const std::string& text) {
  const Bio bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  return Certificate(bio ? PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr) : nullptr);
}

Key parse_key(const std::string& text) {
  const Bio bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  return Key(bio ? PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr) : nullptr);
}

Status check(const TlsMaterial& material) {
  const Certificate certificate = parse_certificate(material.certificate);
  const Certificate ca = parse_certificate(material.ca);
  const Key key = parse_key(material.key);
  const char* wrong = !certificate                                                ? "certificate"
                      : !ca                                                       ? "ca"
                      : !key                                                      ? "key"
                      : X509_check_private_key(certificate.get(), key.get()) != 1 ? "key"
                                                                                  : nullptr;
  ERR_clear_error();
  if (wrong == nullptr) return ok_status();
  return fail(ErrorCode::kInvalidArgument,
              std::string("the join information's ") + wrong +
                  " is damaged; use the join file as `troupe serve` wrote it");
}

int memory_file(const char* name, const std::string& text) {
  const int fd = memfd_create(name, MFD_CLOEXEC);
  if (fd < 0) return -1;
  const ssize_t written = write(fd, text.data(), text.size());
  if (written == static_cast<ssize_t>(text.size())) return fd;
  close(fd);
  return -1;
}

}  // namespace

Result<TlsMaterial> make_tls_material() {
  const auto failed = [] {
    char text[256] = "unknown";
    ERR_error_string_n(ERR_get_error(), text, sizeof(text));
    return fail(ErrorCode::kInternal, std::string("cannot make the run's TLS material: ") + text);
  };
  const Key ca_key(EVP_EC_gen("P-256"));
  const Key node_key(EVP_EC_gen("P-256"));
  if (!ca_key || !node_key) return failed();
  const Certificate ca = make_certificate(ca_key.get(), "troupe run", nullptr, ca_key.get());
  if (!ca) return failed();
  const Certificate node = make_certificate(node_key.get(), "troupe node", ca.get(), ca_key.get());
  if (!node) return failed();
  TlsMaterial material{pem(node.get()), pem(node_key.get()), pem(ca.get())};
  if (material.certificate.empty() || material.key.empty() || material.ca.empty()) return failed();
  return material;
}

Result<TlsMemoryFiles> TlsMemoryFiles::create(const TlsMaterial& material) {
  if (const Status good = check(material); !good) return good.error();
  TlsMemoryFiles files;
  files.certificate_ = memory_file("troupe-certificate", material.certificate);
  files.key_ = memory_file("troupe-key", material.key);
  files.ca_ = memory_file("troupe-ca", material.ca);
  if (files.certificate_ < 0 || files.key_ < 0 || files.ca_ < 0) {
    return fail(ErrorCode::kIo, "cannot create memory files for the TLS material (memfd_create)");
  }
  return files;
}

TlsMemoryFiles::TlsMemoryFiles(TlsMemoryFiles&& other) noexcept
    : certificate_(std::exchange(other.certificate_, -1)),
      key_(std::exchange(other.key_, -1)),
      ca_(std::exchange(other.ca_, -1)) {}

TlsMemoryFiles::~TlsMemoryFiles() {
  for (const int fd : {certificate_, key_, ca_}) {
    if (fd >= 0) close(fd);
  }
}

TlsFiles TlsMemoryFiles::paths() const {
  const std::string base = "/proc/self/fd/";
  return {base + std::to_string(certificate_), base + std::to_string(key_),
          base + std::to_string(ca_)};
}

}  // namespace troupe
