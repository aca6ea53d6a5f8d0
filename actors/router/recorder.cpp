#include "actors/router/recorder.h"

#include "gpu/step_digest.h"

#include <utility>

namespace troupe {
namespace {

using log::Kind;

constexpr size_t kFlushAt = 1 << 18;
constexpr Micros kFlushEvery = 1'000'000;

bool neutral(const SamplingParams& p) {
  const auto& [temperature, top_k, top_p, min_p, repetition, presence, frequency, seed, n_logprobs,
               bias, min_tokens, stop] = p;
  return temperature == 1 && top_k == 0 && top_p == 1 && min_p == 0 && repetition == 1 &&
         presence == 0 && frequency == 0 && n_logprobs == -1 && bias.empty() && min_tokens == 0 &&
         stop.empty();
}

void put(log::Writer& out, const std::vector<int32_t>& list) {
  out.number(list.size());
  for (const int32_t v : list) out.integer(v);
}

// The structured bindings here and below fail to compile when a field is added: a field that the
// log does not carry would be lost in replay.
void put(log::Writer& out, const SamplingParams& p, bool seed_only) {
  out.number(p.seed);
  if (seed_only) return;
  for (const float v : {p.temperature, p.top_p, p.min_p, p.repetition_penalty, p.presence_penalty,
                        p.frequency_penalty}) {
    out.real(v);
  }
  for (const int32_t v : {p.top_k, p.n_logprobs, p.min_tokens}) out.integer(v);
  out.number(p.logit_bias.size());
  for (const LogitBias& bias : p.logit_bias) {
    out.integer(bias.token);
    out.real(bias.bias);
  }
  put(out, p.stop_tokens);
}

void put(log::Writer& out, const RouterLimits& limits) {
  const auto& [context, queue, queue_tokens, step_tokens, in_flight, timeout, overtakes, cache,
               slowdown, chunk, weights] = limits;
  for (const int64_t v :
       {int64_t{context}, int64_t{queue}, queue_tokens, int64_t{step_tokens}, int64_t{in_flight},
        timeout, int64_t{overtakes}, int64_t{cache ? 1 : 0}, int64_t{chunk}}) {
    out.integer(v);
  }
  out.real(slowdown);
  out.number(weights.size());
  for (const auto& [tenant, weight] : weights) {
    out.number(tenant);
    out.real(weight);
  }
}

/// FNV-1a's scheme over words, as step_digest().
class Digest {
 public:
  void add(uint64_t word) {
    state_ = (state_ ^ word) * 0x100000001b3ULL;
    state_ ^= state_ >> 29;
  }
  [[nodiscard]] uint32_t value() const { return static_cast<uint32_t>(state_ ^ (state_ >> 32)); }

 private:
  uint64_t state_ = 0xcbf29ce484222325ULL;
};

}  // namespace

uint32_t log::decision_digest(const Decision& decision) {
  Digest digest;
  digest.add(decision.plans.size());
  for (const auto& [job, plan] : decision.plans) {
    digest.add(job);
    digest.add(step_digest(plan, {}));
  }
  for (const RequestUpdate& u : decision.updates) {
    digest.add(u.id);
    digest.add(static_cast<uint64_t>(u.kind) << 32 | static_cast<uint64_t>(u.reason));
    digest.add(static_cast<uint64_t>(u.error.code) << 32 | static_cast<uint32_t>(u.prompt_tokens));
    digest.add(static_cast<uint64_t>(u.tokens.size()) << 32 |
               static_cast<uint32_t>(u.cached_tokens));
    for (const SampledToken& t : u.tokens) digest.add(static_cast<uint32_t>(t.token));
  }
  return digest.value();
}

Recorder::Recorder(std::unique_ptr<LogSink> sink, int64_t limit_bytes, const RouterLimits& limits)
    : sink_(std::move(sink)), limit_(limit_bytes - static_cast<int64_t>(trailer().size())) {
  out_.text() += log::kMagic;
  out_.byte(log::kVersion);
  put(out_, limits);
}

Recorder::~Recorder() {
  if (active_) flush();
}

std::string Recorder::trailer() {
  return {static_cast<char>(static_cast<uint8_t>(Kind::kEnd) | log::kSameTime)};
}

void Recorder::begin(Kind kind, uint8_t flags, Micros now) {
  const bool same = now == last_;
  record_ = out_.text().size();
  out_.byte(static_cast<uint8_t>(static_cast<uint8_t>(kind) | flags | (same ? log::kSameTime : 0)));
  if (!same) out_.integer(now - last_);
  last_ = now;
}

void Recorder::end_record() {
  if (flushed_ + static_cast<int64_t>(out_.text().size()) > limit_) {
    out_.text().resize(record_);
    flush();
    active_ = false;
    return sink_->stop("the log is at its limit");
  }
  if (out_.text().size() >= kFlushAt) flush();
}

void Recorder::flush() {
  flushed_ += static_cast<int64_t>(out_.text().size());
  active_ = sink_->put(out_.text());
}

void Recorder::submit(const TokenizedRequest& request, Micros now) {
  if (!active_) return;
  const auto& [id, prompt, sampling, max_tokens, stop_tokens, submitted, deadline, priority, tenant,
               salt, endpoint, ttft, tpot] = request;
  const bool plain = neutral(sampling);
  const bool usual =
      priority == 0 && tenant == 0 && salt == 0 && endpoint == 0 && ttft == 0 && tpot == 0;
  begin(Kind::kSubmit,
        static_cast<uint8_t>((plain ? log::kNeutralSampling : 0) |
                             (usual ? log::kNeutralRequest : 0)),
        now);
  out_.number(id);
  out_.integer(max_tokens);
  out_.integer(now - submitted);
  out_.integer(deadline == 0 ? 0 : deadline - submitted + 1);
  put(out_, prompt);
  put(out_, stop_tokens);
  put(out_, sampling, plain);
  if (!usual) {
    for (const int64_t v : {int64_t{priority}, int64_t{endpoint}, ttft, tpot}) out_.integer(v);
    out_.number(tenant);
    out_.number(salt);
  }
  end_record();
}

void Recorder::cancel(RequestId id, Micros now) {
  if (!active_) return;
  begin(Kind::kCancel, 0, now);
  out_.number(id);
  end_record();
}

void Recorder::finish(RequestId id, Micros now) {
  if (!active_) return;
  begin(Kind::kFinish, 0, now);
  out_.number(id);
  end_record();
}

void Recorder::replica_ready(const ReplicaInfo& info, uint64_t epoch, Micros now) {
  if (!active_) return;
  const auto& [job, n_ranks, n_slots, max_rows, max_step_tokens] = info;
  jobs_[job] = {n_jobs_++, epoch, 0, {}};
  begin(Kind::kReplicaReady, 0, now);
  out_.number(job);
  for (const int32_t v : {n_ranks, n_slots, max_rows, max_step_tokens}) out_.integer(v);
  end_record();
}

void Recorder::replica_lost(uint64_t job, Micros now) {
  if (!active_ || jobs_.erase(job) == 0) return;
  begin(Kind::kReplicaLost, 0, now);
  out_.number(job);
  end_record();
}

void Recorder::apply(uint64_t job, int32_t rank, const StepResult& result, Micros now) {
  if (!active_) return;
  const auto found = jobs_.find(job);
  if (found == jobs_.end() || found->second.epoch != result.epoch) return;  // changes nothing
  Job& from = found->second;
  if (rank != 0) {
    if (result.step > from.last_step) from.early.emplace(result.step, result.digest);
    return;
  }
  const auto early = from.early.find(result.step);
  const bool diverged = early != from.early.end() && early->second != result.digest;
  from.early.erase(from.early.begin(), from.early.upper_bound(result.step));
  if (diverged) return;  // the router refuses it as a whole and loses the replica next
  uint8_t flags = 0;
  if (from.number == last_job_) flags |= log::kSameJob;
  if (result.step == from.last_step + 1) flags |= log::kNextStep;
  for (const SampledToken& t : result.sampled) {
    if (t.failed) flags |= log::kFailures;
  }
  begin(Kind::kApply, flags, now);
  if ((flags & log::kSameJob) == 0) out_.number(from.number);
  if ((flags & log::kNextStep) == 0) out_.number(result.step);
  last_job_ = from.number;
  from.last_step = result.step;
  out_.number(result.timings.compute_us);
  out_.number(result.timings.idle_us);
  out_.number(result.sampled.size());
  int32_t expected = 0;  // rows mostly come in order
  for (const SampledToken& t : result.sampled) {
    out_.integer(int64_t{t.row} - expected);
    out_.integer(t.token);
    if ((flags & log::kFailures) != 0) out_.byte(t.failed ? 1 : 0);
    expected = t.row + 1;
  }
  end_record();
}

void Recorder::tick(Micros now) {
  if (!active_) return;
  begin(Kind::kTick, 0, now);
  end_record();
  // What a crash may lose.
  if (active_ && now - flushed_at_ > kFlushEvery) {
    flushed_at_ = now;
    flush();
  }
}

void Recorder::drain() {
  if (!active_) return;
  begin(Kind::kDrain, 0, last_);
  end_record();
}

void Recorder::reset_prefix_cache() {
  if (!active_) return;
  begin(Kind::kResetCache, 0, last_);
  end_record();
}

void Recorder::planned(const Decision& decision, Micros now) {
  if (!active_) return;
  const bool nothing = log::is_empty(decision);
  begin(Kind::kPlan, nothing ? log::kNothing : 0, now);
  if (!nothing) out_.word(log::decision_digest(decision));
  end_record();
}

}  // namespace troupe
