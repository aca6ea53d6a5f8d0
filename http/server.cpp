#include "http/server.h"

#include "http/session.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <thread>
#include <utility>

namespace troupe {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

constexpr int32_t kRefusedAtOnce = 64;  // connections over the limit that still get an answer

Status check(const ServerOptions& o, const asio::ip::address& address) {
  const auto bad = [](const char* param, const char* what) {
    return Status(fail(ErrorCode::kInvalidArgument, what, param));
  };
  if (o.threads < 1 || o.threads > 256) return bad("threads", "threads must be 1 to 256");
  if (o.max_body < 1024) return bad("max_body", "max_body must be at least 1024 bytes");
  if (o.max_connections < 1) return bad("max_connections", "max_connections must be at least 1");
  for (const std::string& key : o.api_keys) {
    if (key.empty()) return bad("api_keys", "an API key must not be empty");
  }
  if (!address.is_loopback() && o.api_keys.empty() && !o.insecure) {
    return bad("host",
               "other hosts could connect without a key: give an API key, listen on 127.0.0.1, or "
               "say --insecure");
  }
  return ok_status();
}

}  // namespace

class Server::Impl {
 public:
  Impl(Engine& engine, const ServerOptions& options)
      : gateway_(engine, options),
        context_(options.threads),
        acceptor_(asio::make_strand(context_)) {}

  Status listen(const asio::ip::address& address) {
    const tcp::endpoint endpoint(address, gateway_.options.port);
    boost::system::error_code ec;
    acceptor_.open(endpoint.protocol(), ec);
    if (!ec) acceptor_.set_option(tcp::acceptor::reuse_address(true), ec);
    if (!ec) acceptor_.bind(endpoint, ec);
    if (!ec) acceptor_.listen(tcp::acceptor::max_listen_connections, ec);
    if (ec == asio::error::address_in_use) {
      return fail(
          ErrorCode::kIo,
          "port " + std::to_string(endpoint.port()) + " is in use: choose another with --port",
          "port");
    }
    if (ec) {
      return fail(ErrorCode::kIo,
                  "cannot listen on " + address.to_string() + " port " +
                      std::to_string(endpoint.port()) + ": " + ec.message(),
                  "host");
    }
    port_ = acceptor_.local_endpoint().port();
    return ok_status();
  }

  void run() {
    asio::co_spawn(acceptor_.get_executor(), accept_loop(), asio::detached);
    for (int32_t i = 0; i < gateway_.options.threads; ++i) {
      threads_.emplace_back([this] { context_.run(); });
    }
  }

  [[nodiscard]] uint16_t port() const { return port_; }

  void drain() {
    gateway_.draining = true;
    gateway_.hang_up(false);
  }

  bool wait_idle(std::chrono::steady_clock::time_point deadline) {
    return gateway_.wait_idle(deadline);
  }

  void stop() {
    if (threads_.empty()) return;
    gateway_.draining = true;
    // On the acceptor's strand, so that no session begins after the others have been closed.
    asio::post(acceptor_.get_executor(), [this] {
      close_acceptor();
      gateway_.hang_up(true);
    });
    // A session whose socket is closed needs only a few turns of its strand.
    gateway_.wait_no_sessions(std::chrono::steady_clock::now() + std::chrono::seconds(5));
    context_.stop();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  void close_acceptor() {
    boost::system::error_code ignored;
    acceptor_.close(ignored);
    pause_.cancel();
  }

  asio::awaitable<void> accept_loop() {
    while (acceptor_.is_open()) {
      boost::system::error_code ec;
      tcp::socket socket = co_await acceptor_.async_accept(
          asio::make_strand(context_), asio::redirect_error(asio::use_awaitable, ec));
      if (!acceptor_.is_open()) break;
      if (ec) {
        // Out of descriptors, most likely: try again when some have been given back, without
        // spinning until then.
        pause_.expires_after(std::chrono::milliseconds(100));
        co_await pause_.async_wait(asio::redirect_error(asio::use_awaitable, ec));
        continue;
      }
      const int64_t open = gateway_.counters.connections.load();
      const bool refuse = open >= gateway_.options.max_connections;
      if (refuse) gateway_.counters.connections_refused.fetch_add(1);
      if (open >= int64_t{gateway_.options.max_connections} + kRefusedAtOnce) continue;
      start_session(std::move(socket), gateway_, refuse);
    }
  }

  Gateway gateway_;
  asio::io_context context_;  // after gateway_: sessions die with it and use the gateway
  tcp::acceptor acceptor_;
  asio::steady_timer pause_{acceptor_.get_executor()};
  uint16_t port_ = 0;
  std::vector<std::thread> threads_;
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() { stop(); }

Result<std::unique_ptr<Server>> Server::start(Engine& engine, const ServerOptions& options) {
  boost::system::error_code ec;
  const auto address =
      asio::ip::make_address(options.host == "localhost" ? "127.0.0.1" : options.host, ec);
  if (ec) {
    return fail(ErrorCode::kInvalidArgument, "'" + options.host + "' is not an IP address", "host");
  }
  if (Status status = check(options, address); !status) return status.error();
  auto impl = std::make_unique<Impl>(engine, options);
  if (Status status = impl->listen(address); !status) return status.error();
  impl->run();
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

uint16_t Server::port() const { return impl_->port(); }
void Server::drain() { impl_->drain(); }
bool Server::wait_idle(std::chrono::steady_clock::time_point deadline) {
  return impl_->wait_idle(deadline);
}
void Server::stop() { impl_->stop(); }

}  // namespace troupe
