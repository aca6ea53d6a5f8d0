#pragma once

#include "http/framing.h"
#include "http/gateway.h"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace troupe {

/// The bytes of one HTTP connection: requests in, answers out, and a deadline on every wait. What a
/// request means is the Session's business. Everything runs on the socket's strand.
/// shared_ptr: owned by its coroutine and by handlers (timer, read-ahead) in flight.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  template <class T>
  using Awaitable = boost::asio::awaitable<T>;

  Connection(boost::asio::ip::tcp::socket socket, Gateway& gateway);
  virtual ~Connection() = default;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

 protected:
  /// True with the head parsed and checked; false with `refusal` set, after which nothing more may
  /// be read, or because the connection is over.
  Awaitable<bool> read_head(Parser& parser, Framing& framing, std::optional<HttpReply>& refusal);
  /// Likewise, for the body.
  Awaitable<bool> read_body(Parser& parser, const Framing& framing,
                            std::optional<HttpReply>& refusal);
  /// True if all bytes went out.
  Awaitable<bool> write(std::string_view bytes);
  /// Sends a whole answer; true if the connection goes on.
  Awaitable<bool> send(const HttpReply& reply, const Framing& framing);
  /// Status line and the fields that every answer has, without the empty line.
  static std::string head_text(int32_t status, std::string_view content_type,
                               const Framing& framing, bool keep_alive);
  /// Lets the client read our last answer: a close with unread input would reset the connection
  /// and could take the answer with it.
  Awaitable<void> linger();
  void close();

  boost::asio::ip::tcp::socket socket_;
  Gateway& gateway_;
  boost::beast::flat_buffer buffer_;  // what was read and not yet parsed
  bool served_ = false;               // at least one request
  bool idle_ = false;                 // waiting for a request that has not begun

 private:
  void arm(std::chrono::milliseconds timeout);
  void disarm();
  [[nodiscard]] std::string_view buffered() const;

  boost::asio::steady_timer timer_{socket_.get_executor()};
  bool timed_out_ = false;
};

}  // namespace troupe
