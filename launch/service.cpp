#include "launch/service.h"

#include "gpu/base/check.h"
#include "gpu/model/checkpoint.h"
#include "http/server.h"
#include "launch/api_keys.h"

#include <spdlog/logger.h>

#include <sys/signalfd.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>

namespace troupe {

Signals::Signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
  fd_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  TROUPE_CHECK(fd_ >= 0) << std::strerror(errno);
}

Signals::~Signals() { close(fd_); }

std::optional<int> Signals::take() const {
  signalfd_siginfo info{};
  if (read(fd_, &info, sizeof(info)) != sizeof(info)) return std::nullopt;
  return static_cast<int>(info.ssi_signo);
}

Result<Service> Service::start(const Checkpoint& checkpoint, const ServeCommand& command,
                               const TlsFiles& tls, std::string rank_host,
                               std::function<void(const ReplicaEvent&)> on_replica,
                               spdlog::logger& logger) {
  GatewayOptions gateway;
  gateway.served_name = command.served_name;
  gateway.host = std::move(rank_host);
  gateway.tls = tls;
  gateway.max_queue = command.max_queue;
  gateway.max_rows = command.shape.max_rows;
  gateway.max_step_tokens = command.shape.max_step_tokens;
  gateway.queue_timeout = std::chrono::seconds(command.queue_timeout);
  gateway.plan_ahead = std::chrono::milliseconds(command.plan_ahead);
  gateway.step_timeout = std::chrono::seconds(command.step_timeout);
  gateway.decode_slowdown =
      command.decode_slowdown == kNoSlowdownLimit ? 0 : command.decode_slowdown;
  gateway.demote_late = command.late_requests == "demote";
  gateway.share_prefixes = command.share_prefixes;
  gateway.record = command.record;
  gateway.record_limit = int64_t{command.record_limit} << 20;
  gateway.on_record_end = [&logger](const std::string& why) { logger.warn("{}", why); };
  ServerOptions http;
  http.host = command.host;
  http.port = command.port;
  http.threads = command.http_threads;
  http.max_connections = command.max_connections;
  http.insecure = command.insecure;
  if (!command.api_key_file.empty()) {
    auto keys = read_api_keys(command.api_key_file);
    if (!keys) return keys.error();
    http.api_keys = std::move(keys->keys);
    gateway.tenant_weights = std::move(keys->weights);
  }

  Service service;
  service.host_ = command.host;
  auto node = GatewayNode::start(checkpoint, gateway, std::move(on_replica));
  if (!node) return node.error();
  service.node_ = std::move(*node);
  auto server = Server::start(*service.node_, http);
  if (!server) return server.error();
  service.server_ = std::move(*server);
  return service;
}

Service::Service(Service&&) noexcept = default;

Service::~Service() {
  end();
  if (server_) server_->stop();
  server_.reset();  // it calls the node
  node_.reset();
}

void Service::end() {
  if (!server_) return;
  node_->end_streams();
  server_->drain();
  // A client that does not read holds nobody up.
  static_cast<void>(server_->wait_idle(std::chrono::steady_clock::now() + std::chrono::seconds(1)));
}

std::string Service::url() const {
  const bool any = host_ == "0.0.0.0" || host_ == "::";
  const bool v6 = !any && host_.find(':') != std::string::npos;
  const std::string host = any ? "127.0.0.1" : v6 ? "[" + host_ + "]" : host_;
  return "http://" + host + ":" + std::to_string(server_->port());
}

std::optional<int> Service::drain(int32_t drain_timeout, const Signals& signals,
                                  spdlog::logger& logger) {
  node_->drain();
  server_->drain();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(drain_timeout);
  logger.info("draining: running requests get up to {} s; a second signal ends them",
              drain_timeout);
  for (;;) {
    const auto now = std::chrono::steady_clock::now();
    if (server_->wait_idle(std::min(deadline, now + std::chrono::milliseconds(100)))) break;
    if (const auto second = signals.take()) return second;
    if (now >= deadline) {
      logger.warn("--drain-timeout is over; ending the requests that still run");
      break;
    }
  }
  return std::nullopt;
}

JoinInfo join_info_for(Service& service, const ServeCommand& command, const TlsMaterial& tls,
                       const std::string& rank_host) {
  JoinInfo info;
  info.host = rank_host;
  info.port = service.node().port();
  info.tls = tls;
  std::error_code error;
  const auto absolute = std::filesystem::absolute(command.model, error);
  info.model = error ? command.model : absolute.string();
  info.shape = command.shape;
  return info;
}

Status check_against_model(const ServeCommand& command, int32_t ranks,
                           const Checkpoint& checkpoint) {
  if (!command.shape.sim_model.empty()) return ok_status();  // MODEL only lends its tokenizer
  const int32_t heads = checkpoint.config().n_heads;
  if (ranks <= heads) return ok_status();
  return fail(ErrorCode::kInvalidArgument,
              std::to_string(ranks) + " ranks are more than the " + std::to_string(heads) +
                  " attention heads of " + command.model + "; use --tp " + std::to_string(heads) +
                  " or less",
              "--tp");
}

}  // namespace troupe
