#pragma once

namespace troupe {

/// Makes sure that CAF's TLS connections fail one by one. Call it before an actor system loads
/// caf::openssl.
///
/// OpenSSL keeps errors in a queue of the thread and takes what it finds there for the newest
/// call's (SSL_get_error(3): the queue must be empty before a TLS operation). CAF 0.17 serves all
/// connections on one thread and never empties it: one peer that dies, or one stranger that is
/// refused, would end the connections of all others. So this program has SSL_read, SSL_write,
/// SSL_accept and SSL_connect of its own, which the libraries find first and which empty the queue
/// before they call OpenSSL's; SSL_read also reads ahead, for half the system calls. Aborts if the
/// libraries would not find them.
void separate_ssl_errors();

}  // namespace troupe
