#include "http/connection.h"

#include "http/api/error.h"
#include "http/head_check.h"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/http/read.hpp>

#include <utility>
#include <vector>

namespace troupe {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr size_t kReadBuffer = 64 * 1024;
constexpr size_t kLingerBytes = 32 << 20;
constexpr std::chrono::seconds kLinger{2};

std::string_view view(beast::string_view text) { return {text.data(), text.size()}; }

RequestHead head_of(const Connection::Parser& parser) {
  const auto& parsed = parser.get();
  RequestHead head;
  head.version = parsed.version();
  head.keep_alive = parsed.keep_alive();
  head.method = view(parsed.method_string());
  head.target = view(parsed.target());
  for (const auto& field : parsed) {
    head.fields.emplace_back(view(field.name_string()), view(field.value()));
  }
  return head;
}

}  // namespace

Connection::Connection(tcp::socket socket, Gateway& gateway)
    : socket_(std::move(socket)), gateway_(gateway), buffer_(kReadBuffer) {}

void Connection::arm(std::chrono::milliseconds timeout) {
  timed_out_ = false;
  timer_.expires_after(timeout);
  timer_.async_wait([weak = weak_from_this()](error_code ec) {
    const auto self = weak.lock();
    if (ec || !self || self->timer_.expiry() > std::chrono::steady_clock::now()) return;
    self->timed_out_ = true;
    error_code ignored;
    self->socket_.cancel(ignored);
  });
}

void Connection::disarm() { timer_.cancel(); }

void Connection::close() {
  error_code ignored;
  socket_.close(ignored);
  timer_.cancel();
}

asio::awaitable<void> Connection::linger() {
  error_code ec;
  if (!socket_.is_open()) co_return;
  socket_.shutdown(tcp::socket::shutdown_send, ec);
  arm(kLinger);
  size_t total = 0;
  std::vector<char> sink(16 * 1024);
  while (!ec && !timed_out_ && total < kLingerBytes) {
    total += co_await socket_.async_read_some(asio::buffer(sink),
                                              asio::redirect_error(asio::use_awaitable, ec));
  }
  disarm();
}

// The common case is one send() that the kernel takes whole.
asio::awaitable<bool> Connection::write(std::string_view bytes) {
  error_code ec;
  const size_t sent = socket_.write_some(asio::buffer(bytes.data(), bytes.size()), ec);
  if (ec && ec != asio::error::would_block && ec != asio::error::try_again) co_return false;
  bytes.remove_prefix(ec ? 0 : sent);
  while (!bytes.empty()) {
    arm(gateway_.options.write_timeout);  // per piece: a slow reader that reads may go on
    const size_t n = co_await socket_.async_write_some(
        asio::buffer(bytes.data(), bytes.size()), asio::redirect_error(asio::use_awaitable, ec));
    disarm();
    if (ec || timed_out_) co_return false;
    bytes.remove_prefix(n);
  }
  co_return true;
}

std::string Connection::head_text(int32_t status, std::string_view content_type,
                                  const Framing& framing, bool keep_alive) {
  std::string out = framing.version == 10 ? "HTTP/1.0 " : "HTTP/1.1 ";
  out += std::to_string(status);
  out += ' ';
  out += view(http::obsolete_reason(static_cast<http::status>(status)));
  if (!content_type.empty()) {
    out += "\r\nContent-Type: ";
    out += content_type;
  }
  if (!framing.request.request_id.empty()) {
    out += "\r\nX-Request-Id: " + framing.request.request_id;
  }
  out += keep_alive ? "\r\nConnection: keep-alive\r\n" : "\r\nConnection: close\r\n";
  return out;
}

asio::awaitable<bool> Connection::send(const HttpReply& reply, const Framing& framing) {
  gateway_.counters.count_answer(reply.status);
  const bool keep_alive = framing.keep_alive && !gateway_.draining;
  std::string out = head_text(reply.status, reply.content_type, framing, keep_alive);
  for (const auto& [name, value] : reply.headers) {
    out += name;
    out += ": ";
    out += value;
    out += "\r\n";
  }
  if (reply.status != 204) {
    out += "Content-Length: " + std::to_string(reply.body.size()) + "\r\n";
  }
  out += "\r\n";
  if (framing.request.method != "HEAD") out += reply.body;
  const bool written = co_await write(out);
  co_return written&& keep_alive;
}

std::string_view Connection::buffered() const {
  return {static_cast<const char*>(buffer_.data().data()), buffer_.size()};
}

asio::awaitable<bool> Connection::read_head(Parser& parser, Framing& framing,
                                            std::optional<HttpReply>& refusal) {
  error_code ec;
  const bool fresh = buffer_.size() > 0 || !served_;
  arm(fresh ? gateway_.options.header_timeout : gateway_.options.idle_timeout);
  HeadState head;
  for (;;) {
    // Some clients send an extra CR LF after a body (RFC 9112, 2.2).
    while (buffered().starts_with("\r\n")) buffer_.consume(2);
    head = check_head(buffered());
    if (head.kind != HeadState::Kind::kIncomplete) break;
    idle_ = buffer_.size() == 0;
    if (idle_ && served_ && gateway_.draining) co_return false;
    const size_t n = co_await socket_.async_read_some(
        buffer_.prepare(4096), asio::redirect_error(asio::use_awaitable, ec));
    if (idle_ && !fresh) arm(gateway_.options.header_timeout);
    const bool nothing = idle_;
    idle_ = false;
    buffer_.commit(n);
    if (timed_out_ && !nothing) {
      refusal = error_reply(408, "request_timeout", "the request header took too long");
    }
    if (ec || timed_out_) co_return false;
  }
  disarm();
  parser.header_limit(kMaxHeadBytes + 1);
  parser.body_limit(boost::none);  // check_framing answers for announced lengths
  if (head.kind == HeadState::Kind::kBad) {
    refusal = error_reply(head.status, "bad_request", head.reason);
    co_return false;
  }
  const size_t used = parser.put(asio::buffer(buffered().data(), head.size), ec);
  if (ec || !parser.is_header_done()) {
    const int32_t status = ec == http::error::bad_version ? 505 : 400;
    refusal = error_reply(status, "bad_request", "this is not an HTTP/1.1 request");
    co_return false;
  }
  buffer_.consume(used);
  refusal = check_framing(head_of(parser), gateway_.options.max_body, framing);
  co_return !refusal;
}

asio::awaitable<bool> Connection::read_body(Parser& parser, const Framing& framing,
                                            std::optional<HttpReply>& refusal) {
  if (framing.expects_continue && buffer_.size() == 0) {
    const bool written = co_await write("HTTP/1.1 100 Continue\r\n\r\n");
    if (!written) co_return false;
  }
  error_code ec;
  parser.body_limit(static_cast<uint64_t>(gateway_.options.max_body));
  arm(gateway_.options.body_timeout);
  co_await http::async_read(socket_, buffer_, parser,
                            asio::redirect_error(asio::use_awaitable, ec));
  disarm();
  if (timed_out_) {
    refusal = error_reply(408, "request_timeout", "the request body took too long");
  } else if (ec == http::error::body_limit) {
    refusal = error_reply(
        fail(ErrorCode::kPayloadTooLarge,
             "the body is larger than " + std::to_string(gateway_.options.max_body) + " bytes"));
  } else if (ec && ec != http::error::end_of_stream && ec != http::error::partial_message &&
             ec.category() == error_code(http::error::bad_chunk).category()) {
    refusal = error_reply(400, "bad_request", "the request body is not framed correctly");
  }
  co_return !ec && !timed_out_;
}

}  // namespace troupe
