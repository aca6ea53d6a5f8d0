#include "http/session.h"

#include "http/api/error.h"
#include "http/connection.h"
#include "http/event_queue.h"
#include "http/generation.h"
#include "http/sse.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/channel.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace troupe {

namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

/// What one connection is used for: request after request. Everything runs on the socket's strand,
/// but the event queue's wake call.
class Session final : public Connection {
 public:
  Session(tcp::socket socket, Gateway& gateway) : Connection(std::move(socket), gateway) {
    gateway_.counters.connections.fetch_add(1);
  }

  ~Session() override {
    gateway_.counters.connections.fetch_sub(1);
    gateway_.remove_session(id_);
  }

  void open() {
    id_ = gateway_.add_session([weak = weak(), executor = socket_.get_executor()](bool force) {
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

  std::weak_ptr<Session> weak() { return std::static_pointer_cast<Session>(shared_from_this()); }

  void hang_up(bool force) {
    if (!force && !(idle_ && served_)) return;
    close();
    notify();
  }

  // -- one request --

  asio::awaitable<bool> serve_one() {
    Framing framing;
    Parser parser;
    std::optional<HttpReply> refusal;
    const bool head = co_await read_head(parser, framing, refusal);
    if (!head && !refusal) co_return false;
    const RequestGuard guard(gateway_);
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

  // -- generation --

  /// Keeps one read pending while we generate, because only a read notices a client that leaves.
  /// What arrives is the next request, and stays in the buffer. A client that closes its sending
  /// side counts as gone.
  void read_ahead() {
    if (buffer_.size() + 4096 > buffer_.max_size()) return;  // far ahead enough
    reading_ahead_ = true;
    socket_.async_read_some(buffer_.prepare(4096), [self = weak().lock()](error_code ec, size_t n) {
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

  asio::awaitable<bool> generate(GenerateCall& call, const Framing& framing) {
    const auto wake = [weak = weak(), executor = socket_.get_executor()](bool overflowed) {
      asio::post(executor, [weak, overflowed] {
        if (const auto self = weak.lock()) self->on_wake(overflowed);
      });
    };
    gone_ = false;
    Generation g(gateway_.engine, std::make_shared<EventQueue>(gateway_.options.max_buffered, wake),
                 call.requests);
    read_ahead();
    const bool more = co_await answer(call, framing, g);
    if (gone_) gateway_.counters.disconnects.fetch_add(1);
    co_await end_read_ahead();
    co_return more && !gone_;
  }

  asio::awaitable<bool> answer(const GenerateCall& call, const Framing& framing, Generation& g) {
    const bool chunked = framing.version == 11;
    const bool keep_alive = chunked && framing.keep_alive && !gateway_.draining;
    bool streaming = false;
    std::string out;
    begin_chunk(out);
    while (!gone_) {
      if (!g.take(*call.writer, out)) {
        co_await wait_signal();
        continue;
      }
      if (g.error() && !streaming) {
        const HttpReply refusal = error_reply(*g.error());
        co_return co_await send(refusal, framing);
      }
      const bool done = g.finished() || g.error();
      if (!call.stream) {
        if (done) break;
        continue;
      }
      // The status line waits until every choice is accepted: errors before that get their own.
      if (!streaming && !g.accepted()) continue;
      if (g.error()) out += sse_error(*g.error());
      if (done && !g.error()) call.writer->end(out);
      if (!streaming) {
        streaming = true;
        const bool begun = co_await begin_stream(framing, keep_alive);
        if (!begun) break;
      }
      const bool last = done;
      const bool written = co_await write_events(out, chunked, last);
      if (!written) break;
      if (last) co_return keep_alive && !g.error();
      begin_chunk(out);
    }
    if (call.stream || gone_ || !g.finished()) {
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

  // "Look again". A channel and not a timer, because timers cost a system call per wait.
  asio::experimental::channel<void(error_code)> signal_{socket_.get_executor(), 1};
  uint64_t id_ = 0;
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
