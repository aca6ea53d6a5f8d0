#include "launch/tls_material.h"

#include <gmock/gmock.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <fstream>
#include <memory>
#include <sstream>

namespace troupe {
namespace {

using CertificatePtr = std::unique_ptr<X509, decltype(&X509_free)>;

CertificatePtr read_certificate(const std::string& pem) {
  BIO* bio = BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()));
  CertificatePtr certificate(PEM_read_bio_X509(bio, nullptr, nullptr, nullptr), &X509_free);
  BIO_free(bio);
  return certificate;
}

/// OpenSSL's verdict on `certificate` when `ca` is all that is trusted.
int verify(const std::string& certificate, const std::string& ca, int purpose) {
  const auto leaf = read_certificate(certificate);
  const auto root = read_certificate(ca);
  X509_STORE* store = X509_STORE_new();
  X509_STORE_add_cert(store, root.get());
  X509_STORE_CTX* context = X509_STORE_CTX_new();
  X509_STORE_CTX_init(context, store, leaf.get(), nullptr);
  X509_STORE_CTX_set_purpose(context, purpose);
  X509_STORE_CTX_set_flags(context, X509_V_FLAG_X509_STRICT);
  X509_verify_cert(context);
  const int error = X509_STORE_CTX_get_error(context);
  X509_STORE_CTX_free(context);
  X509_STORE_free(store);
  return error;
}

TEST(TlsMaterial, node_certificate_verifies_for_both_sides_against_its_own_ca_only) {
  const auto one = make_tls_material();
  const auto other = make_tls_material();
  ASSERT_TRUE(one.ok() && other.ok());
  for (const int purpose : {X509_PURPOSE_SSL_SERVER, X509_PURPOSE_SSL_CLIENT}) {
    EXPECT_EQ(verify(one->certificate, one->ca, purpose), X509_V_OK);
    EXPECT_NE(verify(one->certificate, other->ca, purpose), X509_V_OK);
  }
  EXPECT_NE(one->key, other->key);
}

TEST(TlsMaterial, memory_files_load_into_a_tls_context_and_vanish) {
  const auto material = make_tls_material();
  ASSERT_TRUE(material.ok());
  TlsFiles paths;
  {
    const auto files = TlsMemoryFiles::create(*material);
    ASSERT_TRUE(files.ok());
    paths = files->paths();
    SSL_CTX* context = SSL_CTX_new(TLS_method());
    for (int i = 0; i < 2; ++i) {  // read more than once: each connection does
      EXPECT_EQ(SSL_CTX_use_certificate_chain_file(context, paths.certificate.c_str()), 1);
      EXPECT_EQ(SSL_CTX_use_PrivateKey_file(context, paths.key.c_str(), SSL_FILETYPE_PEM), 1);
      EXPECT_EQ(SSL_CTX_check_private_key(context), 1);
      EXPECT_EQ(SSL_CTX_load_verify_locations(context, paths.ca.c_str(), nullptr), 1);
    }
    SSL_CTX_free(context);
    std::stringstream text;
    text << std::ifstream(paths.key).rdbuf();
    EXPECT_EQ(text.str(), material->key);
  }
  EXPECT_FALSE(std::ifstream(paths.key).good());
}

TEST(TlsMaterial, damaged_material_is_refused_by_name) {
  const auto good = make_tls_material();
  const auto other = make_tls_material();
  ASSERT_TRUE(good.ok() && other.ok());
  const auto refusal = [&](std::string TlsMaterial::*part, const std::string& text) {
    TlsMaterial bad = *good;
    bad.*part = text;
    const auto files = TlsMemoryFiles::create(bad);
    return files.ok() ? std::string() : files.error().message;
  };
  using testing::HasSubstr;
  EXPECT_THAT(refusal(&TlsMaterial::certificate, "nonsense"), HasSubstr("'s certificate is"));
  EXPECT_THAT(refusal(&TlsMaterial::ca, ""), HasSubstr("'s ca is damaged"));
  EXPECT_THAT(refusal(&TlsMaterial::key, good->key.substr(0, 60)), HasSubstr("'s key is damaged"));
  EXPECT_THAT(refusal(&TlsMaterial::key, other->key), HasSubstr("'s key is damaged"));
}

}  // namespace
}  // namespace troupe
