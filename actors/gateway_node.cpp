// The gateway process's node: tokenizers, router, detokenizers and the Engine in front of them.

#include "actors/clock.h"
#include "actors/log_file.h"
#include "actors/model_shape.h"
#include "actors/node.h"
#include "actors/published.h"
#include "actors/rank_actor.h"
#include "actors/rank_node.h"
#include "actors/router_actor.h"
#include "actors/system_config.h"
#include "actors/text/chat_template.h"
#include "actors/text/tokenizer.h"
#include "actors/text_actors.h"
#include "gpu/communicator.h"

#include <caf/actor_system.hpp>
#include <caf/openssl/publish.hpp>
#include <caf/send.hpp>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <random>
#include <utility>

namespace troupe {
namespace {

RouterLimits router_limits(const Checkpoint& checkpoint, const GatewayOptions& options) {
  RouterLimits limits;
  limits.max_context = checkpoint.config().max_context;
  limits.max_queue = options.max_queue;
  limits.max_queue_tokens = options.max_queue_tokens;
  limits.max_step_tokens = options.max_step_tokens;
  limits.plan_ahead = options.plan_ahead.count() * 1000;
  limits.queue_timeout = options.queue_timeout.count() * 1000;
  limits.step_timeout = options.step_timeout.count() * 1000;
  limits.decode_slowdown = options.decode_slowdown;
  limits.demote_late = options.demote_late;
  limits.share_prefixes = options.share_prefixes;
  limits.tenant_weights = options.tenant_weights;
  return limits;
}

EngineEvent failed(ErrorCode code, const char* message) {
  EngineEvent event;
  event.kind = EngineEvent::Kind::kFinished;
  event.reason = FinishReason::kError;
  event.error = fail(code, message);
  return event;
}

/// A sink that gets its kFinished also when it is dropped on the way, with an actor that is gone.
Sink with_end(Sink sink) {
  struct Stream {
    explicit Stream(Sink s) : sink(std::move(s)) {}
    ~Stream() {
      if (!ended) sink(failed(ErrorCode::kUnavailable, "the server is shutting down"));
    }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    Sink sink;
    bool ended = false;
  };
  // Shared by the copies of one std::function, of which one is used.
  return [stream = std::make_shared<Stream>(std::move(sink))](EngineEvent&& event) {
    stream->ended = event.kind == EngineEvent::Kind::kFinished;
    stream->sink(std::move(event));
  };
}

class ActorGateway final : public GatewayNode {
 public:
  ActorGateway(const Checkpoint& checkpoint, const GatewayOptions& options,
               std::shared_ptr<const Tokenizer> tokenizer,
               const std::shared_ptr<const ChatTemplate>& chat,
               std::function<void(const ReplicaEvent&)> on_replica,
               std::shared_ptr<Recorder> recorder)
      : options_(options),
        tokenizer_(std::move(tokenizer)),
        encoder_(std::make_shared<const PromptEncoder>(
            tokenizer_, chat, checkpoint.config().stop_tokens, checkpoint.config().max_context)),
        config_(options.tls.certificate.empty() ? nullptr : &options.tls),
        system_(config_) {
    const ModelConfig& model = checkpoint.config();
    info_.id = options.served_name.empty() ? model.name : options.served_name;
    info_.path = checkpoint.path();
    info_.max_context = model.max_context;
    info_.vocab = model.vocab;
    info_.has_chat_template = chat != nullptr;
    info_.created = static_cast<int64_t>(std::time(nullptr));

    const int32_t pool = std::max(1, options.tokenizers);
    for (int32_t i = 0; i < pool; ++i) {
      detokenizers_.push_back(
          system_.spawn<StateActor<DetokenizerHandle, DetokenizerState>>(tokenizer_));
    }
    RouterSetup setup;
    setup.limits = router_limits(checkpoint, options);
    setup.recorder = std::move(recorder);
    setup.model = model_shape(model);
    setup.version = kVersion;
    setup.detokenizers = detokenizers_;
    setup.on_replica = std::move(on_replica);
    setup.stats = stats_;
    setup.picture = picture_;
    router_ = system_.spawn<StateActor<RouterHandle, RouterState>>(std::move(setup));
    for (int32_t i = 0; i < pool; ++i) {
      tokenizers_.push_back(system_.spawn<StateActor<TokenizerHandle, TokenizerState>>(
          encoder_, router_, detokenizers_, backlog_));
    }
  }

  ~ActorGateway() override {
    caf::anon_send(router_, dismiss_atom_v, uint64_t{0});
    // A rank that stops before its siblings have run the same plan would keep them waiting.
    for (const auto& communicator : communicators_) communicator->abort();
    for (auto& worker : local_workers_) worker->stop();
    for (const auto& rank : local_ranks_)
      caf::anon_send_exit(rank, caf::exit_reason::user_shutdown);
    for (const auto& t : tokenizers_) caf::anon_send_exit(t, caf::exit_reason::user_shutdown);
    caf::anon_send_exit(router_, caf::exit_reason::user_shutdown);
    for (const auto& d : detokenizers_) caf::anon_send_exit(d, caf::exit_reason::user_shutdown);
  }

  Status listen() {
    close_remote_services(system_);
    const auto port = caf::openssl::publish(caf::actor_cast<RouterPort>(router_), options_.port,
                                            options_.host.c_str());
    if (!port) {
      return fail(ErrorCode::kIo, "cannot listen for ranks on " + options_.host + ":" +
                                      std::to_string(options_.port) + ": " +
                                      system_.render(port.error()));
    }
    port_ = *port;
    return ok_status();
  }

  RequestId submit(GenerateRequest request, Sink sink) override {
    const RequestId id = next_id_.fetch_add(1, std::memory_order_relaxed);
    if (ended_) {
      sink(failed(ErrorCode::kUnavailable, "the server is shutting down"));
      return id;
    }
    // Requests that wait for a tokenizer are bounded like those that wait for the router.
    if (backlog_->fetch_add(1, std::memory_order_relaxed) >= options_.max_queue) {
      backlog_->fetch_sub(1, std::memory_order_relaxed);
      sink(failed(ErrorCode::kQueueFull, "too many requests are waiting; try again later"));
      return id;
    }
    OpenStream open;
    open.id = id;
    open.stop = request.stop;
    open.skip_special_tokens = request.skip_special_tokens;
    open.logprobs = request.sampling.n_logprobs >= 0;
    open.sink = with_end(std::move(sink));
    // In this order: the stream is there before anything can happen to the request.
    caf::anon_send(detokenizers_[id % detokenizers_.size()], std::move(open));
    caf::anon_send(tokenizers_[id % tokenizers_.size()],
                   TokenizeJob{id, std::move(request), steady_micros()});
    return id;
  }

  void cancel(RequestId id) override {
    caf::anon_send(tokenizers_[id % tokenizers_.size()], cancel_atom_v, id);
  }
  void reset_prefix_cache() override { caf::anon_send(router_, forget_atom_v); }
  [[nodiscard]] EngineStats stats() const override { return stats_->get(); }
  [[nodiscard]] EngineSnapshot snapshot() const override {
    picture_->asked = steady_micros();
    return picture_->newest.get();
  }
  [[nodiscard]] const ModelInfo& model() const override { return info_; }
  [[nodiscard]] Result<std::vector<int32_t>> tokenize(const Prompt& prompt) const override {
    return encoder_->encode(prompt, false);
  }
  [[nodiscard]] std::string detokenize(const std::vector<int32_t>& tokens) const override {
    IncrementalDecoder decoder(*tokenizer_, false);
    std::string text;
    for (const int32_t token : tokens) text += decoder.push(token);
    return text + decoder.flush();
  }
  [[nodiscard]] uint16_t port() const override { return port_; }
  void end_streams() override {
    ended_ = true;
    // Detokenizers end what they have when they go.
    for (const auto& d : detokenizers_) caf::anon_send_exit(d, caf::exit_reason::user_shutdown);
  }
  void drain() override { caf::anon_send(router_, drain_atom_v); }
  void dismiss(uint64_t job) override { caf::anon_send(router_, dismiss_atom_v, job); }

  Status add_local_replica(const Checkpoint& checkpoint, const ExecutorOptions& options,
                           std::vector<std::unique_ptr<Communicator>> communicators) override {
    RankOptions rank;
    rank.executor = options;
    rank.job = std::random_device{}() | 1U;
    const auto router = caf::actor_cast<RouterPort>(router_);
    const size_t first = communicators_.size();
    for (auto& c : communicators) communicators_.push_back(std::move(c));
    // Ranks load together: creating an executor is collective.
    std::vector<std::shared_ptr<RankWorker>> workers;
    std::vector<Status> built(communicators.size(), ok_status());
    std::vector<std::thread> starters;
    for (size_t i = 0; i < communicators.size(); ++i) {
      Communicator& communicator = *communicators_[first + i];
      const auto worker = make_rank_worker(router, rank.job, communicator.rank(), nullptr);
      workers.push_back(worker);
      starters.emplace_back([&, worker, i] {
        built[i] = worker->start([&] {
          auto executor = Executor::create(checkpoint, options, communicator);
          if (!executor) communicator.abort();
          return executor;
        });
      });
    }
    for (std::thread& starter : starters) starter.join();
    // kCancelled: that rank gave up because of another, whose own error says more.
    for (const bool any : {false, true}) {
      for (const Status& status : built) {
        if (!status && (any || status.error().code != ErrorCode::kCancelled)) return status;
      }
    }
    for (size_t i = 0; i < workers.size(); ++i) {
      local_workers_.push_back(workers[i]);
      local_ranks_.push_back(system_.spawn<StateActor<RankHandle, RankState>>(
          make_join(checkpoint, rank, *communicators_[first + i], *workers[i]), router, workers[i],
          RankEnd{}));
    }
    return ok_status();
  }

 private:
  GatewayOptions options_;
  ModelInfo info_;
  std::shared_ptr<const Tokenizer> tokenizer_;    // shared with the actors
  std::shared_ptr<const PromptEncoder> encoder_;  // shared with the tokenizer actors
  // Shared with the router, which writes, and with the tokenizers, which count down.
  std::shared_ptr<Published<EngineStats>> stats_ = std::make_shared<Published<EngineStats>>();
  std::shared_ptr<Picture> picture_ = std::make_shared<Picture>();  // shared with the router
  std::shared_ptr<std::atomic<int32_t>> backlog_ = std::make_shared<std::atomic<int32_t>>(0);
  std::atomic<RequestId> next_id_{1};
  std::atomic<bool> ended_{false};
  uint16_t port_ = 0;
  std::vector<std::unique_ptr<Communicator>> communicators_;  // outlive the workers
  SystemConfig config_;
  caf::actor_system system_;  // ends after all members below are gone
  RouterHandle router_;
  std::vector<TokenizerHandle> tokenizers_;
  std::vector<DetokenizerHandle> detokenizers_;
  std::vector<std::shared_ptr<RankWorker>> local_workers_;  // shared with their rank actors
  std::vector<RankHandle> local_ranks_;
};

}  // namespace

Result<std::unique_ptr<GatewayNode>> GatewayNode::start(
    const Checkpoint& checkpoint, const GatewayOptions& options,
    std::function<void(const ReplicaEvent&)> on_replica) {
  auto tokenizer = Tokenizer::load(checkpoint);
  if (!tokenizer) return tokenizer.error();
  std::shared_ptr<const ChatTemplate> chat;
  if (!(*tokenizer)->chat_template().empty()) {
    auto parsed = ChatTemplate::parse((*tokenizer)->chat_template());
    if (!parsed) return parsed.error();
    chat = std::move(*parsed);
  }
  std::shared_ptr<Recorder> recorder;
  if (!options.record.empty()) {
    auto opened =
        record_to_file(options.record, options.record_limit, router_limits(checkpoint, options),
                       /*wait=*/false, options.on_record_end);
    if (!opened) return opened.error();
    recorder = std::move(*opened);
  }
  auto node =
      std::make_unique<ActorGateway>(checkpoint, options, std::move(*tokenizer), std::move(chat),
                                     std::move(on_replica), std::move(recorder));
  if (!options.tls.certificate.empty()) {
    if (auto ok = node->listen(); !ok) return ok.error();
  }
  return std::unique_ptr<GatewayNode>(std::move(node));
}

}  // namespace troupe
