#include "http/session.h"

#include "http/api/error.h"
#include "http/event_queue.h"
#include "http/head_check.h"
#include "http/sse.h"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/channel.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>

#include <algorithm>
#include <optional>
#include <random>
#include <string_view>
#include <utility>

namespace troupe {

// ---- Gateway ----

void Gateway::begin_request(bool counted) {
  counters.requests.fetch_add(1);
  const std::lock_guard lock(mutex_);
  if (counted) ++requests_;
}

void Gateway::end_request(bool counted) {
  counters.requests.fetch_sub(1);
  const std::lock_guard lock(mutex_);
  if (counted) --requests_;
  changed_.notify_all();
}

bool Gateway::wait_idle(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline, [&] { return requests_ == 0; });
}

uint64_t Gateway::add_session(std::function<void(bool)> hang_up_one) {
  const std::lock_guard lock(mutex_);
  sessions_.emplace(next_id_, std::move(hang_up_one));
  return next_id_++;
}

void Gateway::remove_session(uint64_t id) {
  const std::lock_guard lock(mutex_);
  sessions_.erase(id);
  changed_.notify_all();
}

void Gateway::hang_up(bool force) {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, hang_up_one] : sessions_) hang_up_one(force);
}

bool Gateway::wait_no_sessions(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline, [&] { return sessions_.empty(); });
}

// ---- Session ----

namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using Parser = http::request_parser<http::string_body>;

constexpr size_t kReadBuffer = 64 * 1024;
constexpr size_t kLingerBytes = 32 << 20;
constexpr std::chrono::seconds kLinger{2};

std::string_view reason_phrase(int32_t status) {
  const auto text = http::obsolete_reason(static_cast<http::status>(status));
  return {text.data(), text.size()};
}

std::string new_request_id() {
  std::random_device device;
  std::string id;
  for (int word = 0; word < 4; ++word) {
    uint32_t bits = device();
    for (int i = 0; i < 8; ++i, bits >>= 4) id += "0123456789abcdef"[bits & 15];
  }
  return id;
}

std::string_view view(beast::string_view text) { return {text.data(), text.size()}; }

/// What one request's framing and connection fields say.
struct Framing {
  HttpRequest request;  // without body
  unsigned version = 11;
  bool keep_alive = false;
  bool has_body = false;
  bool expects_continue = false;
};

/// Checks what the parser lets pass and two servers could read in two ways. On refusal nothing
/// after this head may be parsed.
std::optional<HttpReply> check_framing(const Parser& parser, int64_t max_body, Framing& out) {
  const auto& head = parser.get();
  const auto bad = [](const char* why) { return error_reply(400, "bad_request", why); };
  out.version = head.version();
  const bool http11 = head.version() == 11;
  const auto hosts = head.count(http::field::host);
  if (hosts > 1 || (http11 && hosts == 0)) return bad("exactly one Host field is needed");
  const auto encodings = head.count(http::field::transfer_encoding);
  const auto lengths = head.count(http::field::content_length);
  if (encodings > 0) {
    const bool chunked =
        encodings == 1 && iequals(view(head[http::field::transfer_encoding]), "chunked");
    if (!http11 || !chunked || lengths > 0) return bad("this Transfer-Encoding is not accepted");
  }
  if (lengths > 1) return bad("more than one Content-Length");
  if (lengths == 1) {
    const int64_t length = content_length_value(view(head[http::field::content_length]));
    if (length < 0) return bad("a bad Content-Length");
    if (length > max_body) {
      return error_reply(fail(ErrorCode::kPayloadTooLarge,
                              "the body is larger than " + std::to_string(max_body) + " bytes"));
    }
    out.has_body = length > 0;
  }
  out.has_body = out.has_body || encodings > 0;
  if (const auto expect = head.find(http::field::expect); expect != head.end()) {
    if (!iequals(view(expect->value()), "100-continue")) {
      return error_reply(417, "expectation_failed", "only 'Expect: 100-continue' is understood");
    }
    out.expects_continue = http11;
  }
  out.keep_alive = head.keep_alive();

  HttpRequest& r = out.request;
  r.method = std::string(view(head.method_string()));
  std::string_view target = view(head.target());
  if (target.starts_with("http://")) {  // absolute form, as sent through proxies
    const size_t slash = target.find('/', 7);
    target = slash == std::string_view::npos ? "/" : target.substr(slash);
  }
  r.path = std::string(target.substr(0, target.find('?')));
  r.content_type = std::string(view(head[http::field::content_type]));
  r.content_encoding = std::string(view(head[http::field::content_encoding]));
  const auto keys = head.equal_range(http::field::authorization);
  for (auto it = keys.first; it != keys.second; ++it) {
    r.authorization.emplace_back(view(it->value()));
  }
  const std::string_view id = view(head["X-Request-Id"]);
  r.request_id = is_request_id(id) ? std::string(id) : new_request_id();
  return {};
}

/// One connection. Everything runs on the socket's strand, but the event queue's wake call.
/// shared_ptr: owned by its coroutine and by handlers (timer, read-ahead) in flight.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(tcp::socket socket, Gateway& gateway)
      : socket_(std::move(socket)), gateway_(gateway), buffer_(kReadBuffer) {
    gateway_.counters.connections.fetch_add(1);
  }

  ~Session() {
    gateway_.counters.connections.fetch_sub(1);
    gateway_.remove_session(id_);
  }

  void open() {
    id_ = gateway_.add_session(
        [weak = weak_from_this(), executor = socket_.get_executor()](bool force) {
          asio::post(executor, [weak, force] {
            if (const auto self = weak.lock()) self->hang_up(force);
          });
        });
    error_code ignored;
    socket_.set_option(tcp::no_delay(true), ignored);
    socket_.non_blocking(true, ignored);
  }

  asio::awaitable<void> run() {
    bool more = true;
    while (more) {
      more = co_await serve_one();
      served_ = true;
    }
    co_await linger();
    close();
  }

  asio::awaitable<void> refuse() {
    const HttpReply reply =
        error_reply(fail(ErrorCode::kUnavailable, "too many connections: come back in a moment"));
    const Framing framing;
    co_await send(reply, framing);
    co_await linger();
    close();
  }

 private:
  struct RequestGuard {
    explicit RequestGuard(Gateway& g) : gateway(g) { gateway.begin_request(counted); }
    ~RequestGuard() { gateway.end_request(counted); }
    RequestGuard(const RequestGuard&) = delete;
    RequestGuard& operator=(const RequestGuard&) = delete;
    Gateway& gateway;
    // While draining, new requests are refused at once: however many come, the drain can end.
    const bool counted = !gateway.draining;
  };

  /// Owns the engine side of one request: whatever happens, nothing is left running.
  struct Generation {
    Generation(Gateway& g, std::shared_ptr<EventQueue> q) : gateway(g), queue(std::move(q)) {}
    ~Generation() {
      queue->close();
      for (size_t i = 0; i < ids.size(); ++i) {
        if (!finished[i]) gateway.engine.cancel(ids[i]);
      }
    }
    Generation(const Generation&) = delete;
    Generation& operator=(const Generation&) = delete;
    Gateway& gateway;
    std::shared_ptr<EventQueue> queue;  // shared with the sinks that the engine holds
    std::vector<RequestId> ids;
    std::vector<bool> heard;  // a first event has come
    std::vector<bool> finished;
    size_t n_heard = 0;
    size_t n_finished = 0;
    std::optional<Error> error;  // the first one
  };

  // -- deadlines and ends --

  void arm(std::chrono::milliseconds timeout) {
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

  void disarm() { timer_.cancel(); }

  void close() {
    error_code ignored;
    socket_.close(ignored);
    timer_.cancel();
    notify();
  }

  void hang_up(bool force) {
    if (force || (idle_ && served_)) close();
  }

  /// Lets the client read our last answer: a close with unread input would reset the connection
  /// and could take the answer with it.
  asio::awaitable<void> linger() {
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

  // -- writing --

  /// True if all bytes went out. The common case is one send() that the kernel takes whole.
  asio::awaitable<bool> write(std::string_view bytes) {
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

  static std::string head_text(int32_t status, std::string_view content_type,
                               const Framing& framing, bool keep_alive) {
    std::string out = framing.version == 10 ? "HTTP/1.0 " : "HTTP/1.1 ";
    out += std::to_string(status);
    out += ' ';
    out += reason_phrase(status);
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

  /// Sends a whole answer; true if the connection goes on.
  asio::awaitable<bool> send(const HttpReply& reply, const Framing& framing) {
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

  // -- one request --

  asio::awaitable<bool> serve_one() {
    Framing framing;
    Parser parser;
    parser.header_limit(kMaxHeadBytes + 1);
    parser.body_limit(boost::none);  // check_framing answers for announced lengths
    std::optional<HttpReply> refusal;
    const bool head = co_await read_head(parser, refusal);
    if (!head && !refusal) co_return false;
    const RequestGuard guard(gateway_);
    if (!refusal) refusal = check_framing(parser, gateway_.options.max_body, framing);
    if (!refusal && framing.has_body) {
      const bool body = co_await read_body(parser, framing, refusal);
      if (!body && !refusal) co_return false;
    }
    if (refusal) {
      framing.keep_alive = false;  // we no longer know where the next request starts
      co_return co_await send(*refusal, framing);
    }
    framing.request.body = std::move(parser.get().body());
    std::variant<HttpReply, GenerateCall> answer = route(framing.request, gateway_.routes);
    if (const auto* reply = std::get_if<HttpReply>(&answer)) {
      co_return co_await send(*reply, framing);
    }
    co_return co_await generate(std::get<GenerateCall>(answer), framing);
  }

  std::string_view buffered() const {
    return {static_cast<const char*>(buffer_.data().data()), buffer_.size()};
  }

  /// True with the head parsed; false with `refusal` set, or because the connection is over.
  asio::awaitable<bool> read_head(Parser& parser, std::optional<HttpReply>& refusal) {
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
    co_return true;
  }

  asio::awaitable<bool> read_body(Parser& parser, const Framing& framing,
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

  // -- generation --

  /// Keeps one read pending while we generate, because only a read notices a client that leaves.
  /// What arrives is the next request, and stays in the buffer. A client that closes its sending
  /// side counts as gone.
  void read_ahead() {
    if (buffer_.size() + 4096 > buffer_.max_size()) return;  // far ahead enough
    reading_ahead_ = true;
    socket_.async_read_some(buffer_.prepare(4096),
                            [self = shared_from_this()](error_code ec, size_t n) {
                              self->buffer_.commit(n);
                              self->reading_ahead_ = false;
                              if (self->stop_reading_) {
                                self->notify();
                              } else if (ec) {
                                self->gone_ = true;
                                self->notify();
                              } else {
                                self->read_ahead();
                              }
                            });
  }

  asio::awaitable<void> end_read_ahead() {
    stop_reading_ = true;
    error_code ignored;
    if (reading_ahead_) socket_.cancel(ignored);
    while (reading_ahead_) co_await wait_signal();
    stop_reading_ = false;
  }

  asio::awaitable<void> wait_signal() {
    error_code ignored;
    co_await signal_.async_receive(asio::redirect_error(asio::use_awaitable, ignored));
  }

  /// Makes the session look again; remembered if it is not waiting now.
  void notify() { signal_.try_send(error_code()); }

  /// Runs on the strand after the queue asked for attention.
  void on_wake(bool overflowed) {
    if (overflowed) {
      // The session may hang in a write to a client that does not read: end that write too.
      gateway_.counters.slow_readers.fetch_add(1);
      gone_ = true;
      close();
    }
    notify();
  }

  void submit_all(GenerateCall& call, Generation& g) {
    g.heard.resize(call.requests.size());
    g.finished.resize(call.requests.size());
    for (size_t i = 0; i < call.requests.size(); ++i) {
      const auto choice = static_cast<int32_t>(i);
      g.ids.push_back(gateway_.engine.submit(
          std::move(call.requests[i]),
          [queue = g.queue, choice](EngineEvent&& e) { queue->push(choice, std::move(e)); }));
    }
  }

  /// Feeds what has arrived to the writer; notes the first error.
  static void absorb(std::vector<EventQueue::Item>& items, Generation& g, AnswerWriter& writer,
                     std::string& out) {
    for (EventQueue::Item& item : items) {
      const auto i = static_cast<size_t>(item.choice);
      if (!g.heard[i]) {
        g.heard[i] = true;
        ++g.n_heard;
      }
      if (item.event.kind == EngineEvent::Kind::kFinished) {
        g.finished[i] = true;
        ++g.n_finished;
        const FinishReason reason = item.event.reason;
        if (reason == FinishReason::kError || reason == FinishReason::kCancelled) {
          if (!g.error) {
            g.error = reason == FinishReason::kError
                          ? std::move(item.event.error)
                          : fail(ErrorCode::kCancelled, "the server ended this request early");
          }
          continue;
        }
      }
      if (!g.error) writer.event(item.choice, std::move(item.event), out);
    }
  }

  asio::awaitable<bool> generate(GenerateCall& call, const Framing& framing) {
    const auto wake = [weak = weak_from_this(),
                       executor = socket_.get_executor()](bool overflowed) {
      asio::post(executor, [weak, overflowed] {
        if (const auto self = weak.lock()) self->on_wake(overflowed);
      });
    };
    Generation g(gateway_, std::make_shared<EventQueue>(gateway_.options.max_buffered, wake));
    gone_ = false;
    submit_all(call, g);
    read_ahead();
    const bool more = co_await answer(call, framing, g);
    if (gone_) gateway_.counters.disconnects.fetch_add(1);
    co_await end_read_ahead();
    co_return more && !gone_;
  }

  asio::awaitable<bool> answer(const GenerateCall& call, const Framing& framing, Generation& g) {
    const bool chunked = framing.version == 11;
    const bool keep_alive = chunked && framing.keep_alive && !gateway_.draining;
    const size_t n = g.ids.size();
    bool streaming = false;
    std::vector<EventQueue::Item> items;
    std::string out;
    begin_chunk(out);
    while (!gone_) {
      g.queue->take(items);
      if (items.empty()) {
        co_await wait_signal();
        continue;
      }
      absorb(items, g, *call.writer, out);
      if (g.error && !streaming) {
        const HttpReply refusal = error_reply(*g.error);
        co_return co_await send(refusal, framing);
      }
      const bool done = g.n_finished == n || g.error;
      if (!call.stream) {
        if (done) break;
        continue;
      }
      // The status line waits until every choice is accepted: errors before that get their own.
      if (!streaming && g.n_heard < n) continue;
      if (g.error) out += sse_error(*g.error);
      if (done && !g.error) call.writer->end(out);
      if (!streaming) {
        streaming = true;
        const bool begun = co_await begin_stream(framing, keep_alive);
        if (!begun) break;
      }
      const bool last = done;
      const bool written = co_await write_events(out, chunked, last);
      if (!written) break;
      if (last) co_return keep_alive && !g.error;
      begin_chunk(out);
    }
    if (call.stream || gone_ || g.n_finished < n) {
      gone_ = true;
      co_return false;
    }
    HttpReply reply;
    call.writer->end(reply.body);
    co_return co_await send(reply, framing);
  }

  asio::awaitable<bool> begin_stream(const Framing& framing, bool keep_alive) {
    gateway_.counters.count_answer(200);
    std::string head = head_text(200, "text/event-stream; charset=utf-8", framing, keep_alive) +
                       "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n";
    if (framing.version == 11) head += "Transfer-Encoding: chunked\r\n";
    head += "\r\n";
    co_return co_await write(head);
  }

  asio::awaitable<bool> write_events(std::string& out, bool chunked, bool last) {
    const std::string_view payload = chunked ? end_chunk(out, last) : chunk_payload(out);
    if (payload.empty()) co_return true;
    co_return co_await write(payload);
  }

  tcp::socket socket_;
  Gateway& gateway_;
  beast::flat_buffer buffer_;  // what was read and not yet parsed
  asio::steady_timer timer_{socket_.get_executor()};
  // "Look again". A channel and not a timer, because timers cost a system call per wait.
  asio::experimental::channel<void(error_code)> signal_{socket_.get_executor(), 1};
  uint64_t id_ = 0;
  bool served_ = false;  // at least one request
  bool idle_ = false;    // waiting for a request that has not begun
  bool timed_out_ = false;
  bool gone_ = false;  // the client left
  bool reading_ahead_ = false;
  bool stop_reading_ = false;
};

}  // namespace

void start_session(tcp::socket socket, Gateway& gateway, bool refuse) {
  const auto executor = socket.get_executor();
  auto session = std::make_shared<Session>(std::move(socket), gateway);
  session->open();
  asio::co_spawn(
      executor,
      [session, refuse]() -> asio::awaitable<void> {
        if (refuse) {
          co_await session->refuse();
        } else {
          co_await session->run();
        }
      },
      asio::detached);
}

}  // namespace troupe
