#pragma once

#include "actors/engine.h"
#include "actors/router/request.h"
#include "gpu/step.h"

#include <caf/allowed_unsafe_message_type.hpp>
#include <caf/meta/type_name.hpp>
#include <caf/replies_to.hpp>
#include <caf/type_id.hpp>
#include <caf/typed_actor.hpp>

#include <cstdint>
#include <string>
#include <vector>

/// Every message between actors: this file is the protocol.
namespace troupe {

// --- between processes (serialised) ---

/// A rank offers itself. Sent by every rank of a job; the replica serves when all have arrived.
struct RankJoin {
  uint64_t job = 0;
  int32_t rank = 0;
  int32_t n_ranks = 0;
  int32_t n_slots = 0;
  int32_t max_rows = 0;
  int32_t max_step_tokens = 0;
  std::string model;    // shape of its checkpoint; must equal the gateway's
  std::string version;  // of its program; must equal the gateway's
};

template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, RankJoin& x) {
  return f(caf::meta::type_name("RankJoin"), x.job, x.rank, x.n_ranks, x.n_slots, x.max_rows,
           x.max_step_tokens, x.model, x.version);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, LogitBias& x) {
  return f(caf::meta::type_name("LogitBias"), x.token, x.bias);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, SamplingParams& x) {
  return f(caf::meta::type_name("SamplingParams"), x.temperature, x.top_k, x.top_p, x.min_p,
           x.repetition_penalty, x.presence_penalty, x.frequency_penalty, x.seed, x.n_logprobs,
           x.logit_bias, x.min_tokens, x.stop_tokens);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, OpenRow& x) {
  return f(caf::meta::type_name("OpenRow"), x.row, x.n_prompt, x.sampling, x.prefix_slots,
           x.prefix_tokens);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, RowWork& x) {
  return f(caf::meta::type_name("RowWork"), x.row, x.n_tokens, x.from_last_sample, x.sample);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, StepPlan& x) {
  return f(caf::meta::type_name("StepPlan"), x.epoch, x.step, x.closed, x.opened, x.work, x.tokens,
           x.slots);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, TokenLogprob& x) {
  return f(caf::meta::type_name("TokenLogprob"), x.token, x.logprob);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, SampledToken& x) {
  return f(caf::meta::type_name("SampledToken"), x.row, x.token, x.logprob, x.top, x.failed);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, StepTimings& x) {
  return f(caf::meta::type_name("StepTimings"), x.compute_us, x.idle_us);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, StepResult& x) {
  return f(caf::meta::type_name("StepResult"), x.epoch, x.step, x.digest, x.sampled, x.timings);
}

// --- inside the gateway process (moved, never serialised) ---

struct TokenizeJob {
  RequestId id = 0;
  GenerateRequest request;
  Micros submitted = 0;
};

struct OpenStream {
  RequestId id = 0;
  std::vector<std::string> stop;
  bool skip_special_tokens = true;
  bool logprobs = false;
  Sink sink;
};

}  // namespace troupe

// clang-format off
CAF_ADD_ATOM(troupe, troupe, enlist_atom, "enlist")    // rank -> router: RankJoin and its handle
CAF_ADD_ATOM(troupe, troupe, refused_atom, "refused")  // router -> rank: why it may not serve
CAF_ADD_ATOM(troupe, troupe, dismiss_atom, "dismiss")  // router -> rank: leave when done
CAF_ADD_ATOM(troupe, troupe, failed_atom, "failed")    // rank -> router: device error, I am gone
CAF_ADD_ATOM(troupe, troupe, cancel_atom, "cancel")    // client left
CAF_ADD_ATOM(troupe, troupe, finish_atom, "finish")    // stop string found
CAF_ADD_ATOM(troupe, troupe, drain_atom, "drain")
CAF_ADD_ATOM(troupe, troupe, forget_atom, "forget")    // all cached prefixes
CAF_ADD_ATOM(troupe, troupe, clock_atom, "clock")
// clang-format on

namespace troupe {

/// One rank: runs plans in order.
using RankHandle =
    caf::typed_actor<caf::reacts_to<std::vector<StepPlan>>,
                     caf::reacts_to<refused_atom, std::string>, caf::reacts_to<dismiss_atom>>;

}  // namespace troupe

// clang-format off
CAF_BEGIN_TYPE_ID_BLOCK(troupe, first_custom_type_id)

  CAF_ADD_TYPE_ID(troupe, (troupe::RankJoin))
  CAF_ADD_TYPE_ID(troupe, (troupe::LogitBias))
  CAF_ADD_TYPE_ID(troupe, (troupe::SamplingParams))
  CAF_ADD_TYPE_ID(troupe, (troupe::OpenRow))
  CAF_ADD_TYPE_ID(troupe, (troupe::RowWork))
  CAF_ADD_TYPE_ID(troupe, (troupe::StepPlan))
  CAF_ADD_TYPE_ID(troupe, (troupe::TokenLogprob))
  CAF_ADD_TYPE_ID(troupe, (troupe::SampledToken))
  CAF_ADD_TYPE_ID(troupe, (troupe::StepTimings))
  CAF_ADD_TYPE_ID(troupe, (troupe::StepResult))
  CAF_ADD_TYPE_ID(troupe, (std::vector<troupe::LogitBias>) )
  CAF_ADD_TYPE_ID(troupe, (std::vector<troupe::OpenRow>) )
  CAF_ADD_TYPE_ID(troupe, (std::vector<troupe::RowWork>) )
  CAF_ADD_TYPE_ID(troupe, (std::vector<troupe::TokenLogprob>) )
  CAF_ADD_TYPE_ID(troupe, (std::vector<troupe::SampledToken>) )
  CAF_ADD_TYPE_ID(troupe, (std::vector<troupe::StepPlan>) )
  CAF_ADD_TYPE_ID(troupe, (std::vector<troupe::StepResult>) )
  CAF_ADD_TYPE_ID(troupe, (std::vector<int32_t>) )
  CAF_ADD_TYPE_ID(troupe, (troupe::RankHandle))

CAF_END_TYPE_ID_BLOCK(troupe)
// clang-format on

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::TokenizeJob)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::OpenStream)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::TokenizedRequest)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(std::vector<troupe::RequestUpdate>)

namespace troupe {

/// What ranks may send to the router; all that is published on the network.
using RouterPort =
    caf::typed_actor<caf::reacts_to<enlist_atom, RankJoin, RankHandle>,
                     caf::reacts_to<uint64_t, int32_t, std::vector<StepResult>>,  // job, rank
                     caf::reacts_to<failed_atom, uint64_t, std::string>>;

/// The router as the gateway process sees it.
using RouterHandle =
    RouterPort::extend<caf::reacts_to<TokenizedRequest>, caf::reacts_to<cancel_atom, RequestId>,
                       caf::reacts_to<finish_atom, RequestId>,
                       caf::reacts_to<dismiss_atom, uint64_t>, caf::reacts_to<drain_atom>,
                       caf::reacts_to<forget_atom>, caf::reacts_to<clock_atom>>;

/// Chat template and encoding. A refused request goes to the detokenizer as a RequestUpdate.
using TokenizerHandle =
    caf::typed_actor<caf::reacts_to<TokenizeJob>, caf::reacts_to<cancel_atom, RequestId>>;

/// Owns the sinks: tokens to text to client.
using DetokenizerHandle =
    caf::typed_actor<caf::reacts_to<OpenStream>, caf::reacts_to<std::vector<RequestUpdate>>>;

}  // namespace troupe
