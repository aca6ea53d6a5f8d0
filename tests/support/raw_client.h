#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

namespace troupe::test {

/// A TCP client that sends exactly the bytes it is given. Reads give up after ten seconds without
/// data, so that a hanging server fails a test instead of blocking it.
class RawClient {
 public:
  explicit RawClient(uint16_t port, int receive_buffer = 0)
      : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (receive_buffer > 0) {
      ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    }
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~RawClient() { close(); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  [[nodiscard]] bool connected() const { return connected_; }

  /// False if the peer stopped taking bytes.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }

  /// Reads until `mark` has come or the stream ended; what was read so far, consumed up to and
  /// with the mark.
  std::string read_until(std::string_view mark) {
    for (;;) {
      const size_t at = input_.find(mark);
      if (at != std::string::npos) return take(at + mark.size());
      if (!fill()) return take(input_.size());
    }
  }

  std::string read_bytes(size_t n) {
    while (input_.size() < n && fill()) {
    }
    return take(std::min(n, input_.size()));
  }

  std::string read_to_end() {
    while (fill()) {
    }
    return take(input_.size());
  }

  /// True if the peer closed and nothing is left to read.
  bool at_end() { return input_.empty() && !fill() && ended_; }

  void finish_sending() { ::shutdown(fd_, SHUT_WR); }

  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

  /// Closes with a RST instead of a FIN.
  void reset() {
    const linger hard{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close();
  }

 private:
  bool fill() {
    pollfd wait{.fd = fd_, .events = POLLIN, .revents = 0};
    if (::poll(&wait, 1, 10'000) <= 0) return false;
    char chunk[16384];
    const ssize_t n = ::recv(fd_, chunk, sizeof chunk, 0);
    if (n <= 0) {
      ended_ = true;
      return false;
    }
    input_.append(chunk, static_cast<size_t>(n));
    return true;
  }

  std::string take(size_t n) {
    std::string out = input_.substr(0, n);
    input_.erase(0, n);
    return out;
  }

  int fd_;
  bool connected_ = false;
  bool ended_ = false;
  std::string input_;
};

struct RawResponse {
  int status = 0;
  std::string head;  // status line and fields
  std::string body;  // without chunk framing
};

/// One answer off the connection, by its own framing. status 0: there was none.
inline RawResponse read_response(RawClient& client, bool head_only = false) {
  RawResponse r;
  r.head = client.read_until("\r\n\r\n");
  if (!r.head.starts_with("HTTP/1.") || !r.head.ends_with("\r\n\r\n")) return r;
  r.status = std::atoi(r.head.c_str() + 9);
  if (head_only || r.status == 204 || r.status == 100) return r;
  const size_t length = r.head.find("Content-Length: ");
  if (length != std::string::npos) {
    r.body = client.read_bytes(std::strtoull(r.head.c_str() + length + 16, nullptr, 10));
  } else if (r.head.find("Transfer-Encoding: chunked") != std::string::npos) {
    for (;;) {
      const std::string line = client.read_until("\r\n");
      const size_t size = std::strtoull(line.c_str(), nullptr, 16);
      r.body += client.read_bytes(size);
      if (client.read_bytes(2) != "\r\n" || size == 0) break;
    }
  } else {
    r.body = client.read_to_end();
  }
  return r;
}

inline std::string get_text(const std::string& path, const std::string& fields = {}) {
  return "GET " + path + " HTTP/1.1\r\nHost: t\r\n" + fields + "\r\n";
}

inline std::string post_text(const std::string& path, const std::string& body,
                             const std::string& fields = {}) {
  return "POST " + path + " HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n" + fields +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

}  // namespace troupe::test
