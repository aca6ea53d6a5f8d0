#pragma once

#include "gpu/cuda/attention.h"
#include "gpu/cuda/device.h"
#include "gpu/step.h"

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace troupe::cuda {

/// How a row samples, on the device from open to close. Neutral fields are tested, so that a row
/// pays only for what it asks.
struct RowSampling {
  static constexpr int32_t kMaxBias = 512;
  static constexpr int32_t kMaxStop = 256;

  float temperature = 1.0F;
  float top_p = 1.0F;
  float min_p = 0.0F;
  float repetition_penalty = 1.0F;
  float presence_penalty = 0.0F;
  float frequency_penalty = 0.0F;
  uint64_t seed = 0;
  int32_t top_k = 0;
  int32_t n_logprobs = -1;
  int32_t min_tokens = 0;
  int32_t n_prompt = 0;
  int32_t n_bias = 0;
  int32_t n_stop = 0;
  int32_t counts = 0;    // 1: penalties need to know which tokens the row has seen
  int32_t one_scan = 1;  // 1: arg max of the logits, with or without noise, and nothing else
};
struct RowLists {
  LogitBias bias[RowSampling::kMaxBias];
  int32_t stop[RowSampling::kMaxStop];
};

/// One token of a step as the host describes it.
struct StepToken {
  int32_t row = -1;      // -1: padding
  int32_t token = 0;     // -1: what the row sampled last
  int32_t position = 0;  // of this token in its row
  int32_t slot = 0;      // where its K and V go
};
/// Logits row i belongs to this row's token at `position`.
struct StepSample {
  int32_t row = -1;  // -1: padding, nothing is sampled
  int32_t position = 0;
  int32_t token_index = 0;  // in the step
  int32_t unused = 0;
};

/// What the device tells the host about a step, in pinned memory. The sequence number is written
/// last.
struct StepOutcome {
  uint64_t sequence = 0;
  uint64_t begin_ns = 0;  // the device's clock
  uint64_t end_ns = 0;
};
struct SampleOutcome {
  int32_t token = 0;
  int32_t failed = 0;
  int32_t n_top = 0;
  float logprob = 0.0F;
};
constexpr int32_t kMaxTopLogprobs = 32;

/// The rows of one rank on the device, and the two rings of pinned memory through which the host
/// describes steps and the device answers. A step descriptor is read by the device itself when the
/// step begins, so that a captured step needs no new arguments; step k uses ring entry
/// k % kRing, and no more than kRing - 1 steps may be in flight. Rank worker thread only.
class StepState {
 public:
  static constexpr int32_t kRing = 4;

  struct Limits {
    int32_t max_rows = 0;
    int32_t max_tokens = 0;   // of a step
    int32_t max_context = 0;  // of a row
    int32_t vocab = 0;
  };
  static size_t device_bytes(const Limits& limits);
  explicit StepState(const Limits& limits);
  ~StepState();
  StepState(const StepState&) = delete;
  StepState& operator=(const StepState&) = delete;

  // ---- host side: describe the next step ----
  /// Ring entry of step `k`; valid until step k + kRing.
  [[nodiscard]] std::span<StepToken> tokens(uint64_t k) const;
  [[nodiscard]] std::span<StepSample> samples(uint64_t k) const;
  /// Enqueues what a row needs before the step that opens it.
  void open_row(uint64_t k, int32_t row, const SamplingParams& sampling, int32_t n_prompt,
                std::span<const int32_t> prefix_slots, std::span<const int32_t> prefix_tokens,
                cudaStream_t stream);

  // ---- device side: the first kernel of a step ----
  /// Reads the ring entry of the step at hand (the device counts steps) and fills the arrays below
  /// for n_tokens tokens, the first n_decode of which are a DecodeBatch, and n_samples samples.
  /// Capturable.
  void begin_step(int32_t n_tokens, int32_t n_decode, int32_t n_samples, cudaStream_t stream);

  struct Device {
    int32_t max_rows = 0;
    int32_t max_tokens = 0;
    int32_t vocab_stride = 0;  // of `counts`
    uint64_t* step = nullptr;  // steps that have ended
    uint64_t* begin_ns = nullptr;
    int32_t* slot_table = nullptr;  // [max_rows][max_context]
    int64_t slot_stride = 0;
    int32_t* last_token = nullptr;    // [max_rows]
    RowSampling* sampling = nullptr;  // [max_rows]
    RowLists* lists = nullptr;        // [max_rows]
    uint16_t* counts = nullptr;       // [max_rows][vocab_stride]: bit 15 in the prompt, rest output
    int32_t* token = nullptr;         // [max_tokens], as are the next two
    int32_t* position = nullptr;
    int32_t* slot = nullptr;
    int32_t* decode_row = nullptr;      // [max_rows]
    int32_t* decode_context = nullptr;  // [max_rows]
    StepSample* samples = nullptr;      // [max_rows]
    int32_t* sampled = nullptr;         // [max_rows] token_index of each sample
    // pinned, [kRing]
    const StepToken* ring_tokens = nullptr;    // [max_tokens] each
    const StepSample* ring_samples = nullptr;  // [max_rows] each
    StepOutcome* outcomes = nullptr;
    SampleOutcome* sample_outcomes = nullptr;  // [max_rows] each
    TokenLogprob* top = nullptr;               // [max_rows][kMaxTopLogprobs] each
  };
  [[nodiscard]] const Device& device() const { return device_; }
  [[nodiscard]] DecodeBatch decode_batch(int32_t n_rows) const {
    return {n_rows, device_.decode_row, device_.decode_context, slot_table()};
  }
  [[nodiscard]] SlotTable slot_table() const { return {device_.slot_table, device_.slot_stride}; }
  [[nodiscard]] const Limits& limits() const { return limits_; }

 private:
  void* stage(uint64_t k, size_t bytes);

  Limits limits_;
  Device device_;
  std::byte* device_memory_ = nullptr;
  std::byte* pinned_ = nullptr;
  std::byte* staging_ = nullptr;
  size_t staged_[kRing] = {};
  uint64_t staged_step_[kRing] = {};
};

/// Whether the current device can run this program's kernels.
bool has_kernels();

/// One row's sampling as the device wants it.
RowSampling row_sampling(const SamplingParams& params, int32_t n_prompt);

}  // namespace troupe::cuda
