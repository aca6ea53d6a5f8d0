#include "gpu/step_digest.h"

#include <bit>
#include <vector>

namespace troupe {
namespace {

/// FNV-1a's scheme over 64-bit words, with a shift so that high bits reach low ones too.
class Digest {
 public:
  void add(uint64_t word) {
    state_ = (state_ ^ word) * 0x100000001b3ULL;
    state_ ^= state_ >> 29;
  }
  void add(int32_t v) { add(static_cast<uint64_t>(static_cast<uint32_t>(v))); }
  void add(float v) { add(static_cast<uint64_t>(std::bit_cast<uint32_t>(v))); }
  void add(bool v) { add(uint64_t{v ? 1U : 0U}); }
  /// The length comes first, so that elements cannot move between neighbouring lists.
  void add(const std::vector<int32_t>& list) {
    add(static_cast<uint64_t>(list.size()));
    for (const int32_t v : list) add(v);
  }
  void add(const SamplingParams& p) {
    for (const float v : {p.temperature, p.top_p, p.min_p, p.repetition_penalty, p.presence_penalty,
                          p.frequency_penalty})
      add(v);
    for (const int32_t v : {p.top_k, p.n_logprobs, p.min_tokens}) add(v);
    add(p.seed);
    add(static_cast<uint64_t>(p.logit_bias.size()));
    for (const LogitBias& b : p.logit_bias) {
      add(b.token);
      add(b.bias);
    }
    add(p.stop_tokens);
  }

  [[nodiscard]] uint64_t value() const { return state_; }

 private:
  uint64_t state_ = 0xcbf29ce484222325ULL;
};

}  // namespace

uint64_t step_digest(const StepPlan& plan, std::span<const SampledToken> sampled) {
  Digest d;
  d.add(plan.epoch);
  d.add(plan.step);
  d.add(plan.closed);
  d.add(static_cast<uint64_t>(plan.opened.size()));
  for (const OpenRow& row : plan.opened) {
    d.add(row.row);
    d.add(row.n_prompt);
    d.add(row.sampling);
    d.add(row.prefix_slots);
    d.add(row.prefix_tokens);
  }
  d.add(static_cast<uint64_t>(plan.work.size()));
  for (const RowWork& work : plan.work) {
    d.add(work.row);
    d.add(work.n_tokens);
    d.add(work.from_last_sample);
    d.add(work.sample);
  }
  d.add(plan.tokens);
  d.add(plan.slots);
  d.add(static_cast<uint64_t>(sampled.size()));
  for (const SampledToken& token : sampled) {
    d.add(token.row);
    d.add(token.token);
    d.add(token.failed);
  }
  return d.value();
}

}  // namespace troupe
