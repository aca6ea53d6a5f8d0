#pragma once

#include "http/gateway.h"

#include <boost/asio/ip/tcp.hpp>

namespace troupe {

/// Serves one connection until it ends, on the socket's own executor (a strand). With `refuse` the
/// client is only told that there are too many connections.
void start_session(boost::asio::ip::tcp::socket socket, Gateway& gateway, bool refuse);

}  // namespace troupe
