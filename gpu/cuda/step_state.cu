#include "gpu/base/check.h"
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/step_state.h"
#include "gpu/sampler_row.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace troupe::cuda {
namespace {

constexpr size_t kStagingBytes = size_t{4} << 20;  // of each ring entry
constexpr int kThreads = 256;

__device__ __forceinline__ uint64_t clock_ns() {
  uint64_t ns = 0;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
  return ns;
}

/// Notes that `token` entered a row that counts. 16-bit counts share words, so adds are to words.
__device__ void count_token(const StepState::Device& d, int32_t row, int32_t token, bool prompt) {
  const int64_t at = int64_t{row} * d.vocab_stride + token;
  auto* word = reinterpret_cast<unsigned*>(d.counts) + at / 2;
  const int shift = at % 2 != 0 ? 16 : 0;
  if (prompt)
    atomicOr(word, 0x8000U << shift);
  else
    atomicAdd(word, 1U << shift);
}

__global__ void begin_step_kernel(const __grid_constant__ StepState::Device d, int32_t n_tokens,
                                  int32_t n_decode, int32_t n_samples) {
  release_downstream();
  wait_for_upstream();
  const uint64_t entry = *d.step % StepState::kRing;
  const auto i = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i == 0) *d.begin_ns = clock_ns();
  if (i < n_tokens) {
    // One 16-byte read over the bus a thread.
    const int4 raw =
        __ldcv(reinterpret_cast<const int4*>(d.ring_tokens + entry * d.max_tokens) + i);
    const StepToken t = {raw.x, raw.y, raw.z, raw.w};
    const bool padding = t.row < 0;
    const int32_t token = !padding && t.token < 0 ? d.last_token[t.row] : t.token;
    d.token[i] = token;
    d.position[i] = t.position;
    d.slot[i] = t.slot;
    if (i < n_decode) {
      d.decode_row[i] = padding ? 0 : t.row;
      d.decode_context[i] = padding ? 0 : t.position + 1;
    }
    if (!padding) {
      d.slot_table[t.row * d.slot_stride + t.position] = t.slot;
      if (d.sampling[t.row].counts != 0)
        count_token(d, t.row, token, t.position < d.sampling[t.row].n_prompt);
    }
  }
  if (i < n_samples) {
    const int4 raw = __ldcv(reinterpret_cast<const int4*>(d.ring_samples + entry * d.max_rows) + i);
    d.samples[i] = {raw.x, raw.y, raw.z, raw.w};
    d.sampled[i] = raw.z;
  }
}

__global__ void count_prefix_kernel(const __grid_constant__ StepState::Device d, int32_t row,
                                    const int32_t* tokens, int32_t n, int32_t n_prompt) {
  wait_for_upstream();
  for (auto i = static_cast<int32_t>(threadIdx.x); i < n; i += static_cast<int32_t>(blockDim.x))
    count_token(d, row, tokens[i], i < n_prompt);
}

size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

int32_t even(int32_t n) { return n + n % 2; }

/// Lays arrays out one behind the other; with a base of null only adds up their sizes.
class Layout {
 public:
  explicit Layout(std::byte* base) : base_(base) {}
  template <class T>
  T* take(int64_t count) {
    const size_t at = used_;
    used_ += aligned(static_cast<size_t>(count) * sizeof(T));
    return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + at);
  }
  [[nodiscard]] size_t used() const { return used_; }

 private:
  std::byte* base_;
  size_t used_ = 0;
};

size_t lay_out_device(StepState::Device& d, const StepState::Limits& l, std::byte* base) {
  Layout layout(base);
  const int64_t rows = l.max_rows;
  d.max_rows = l.max_rows;
  d.max_tokens = l.max_tokens;
  d.vocab_stride = even(l.vocab);
  d.slot_stride = l.max_context;
  d.step = layout.take<uint64_t>(1);
  d.begin_ns = layout.take<uint64_t>(1);
  d.slot_table = layout.take<int32_t>(rows * l.max_context);
  d.last_token = layout.take<int32_t>(rows);
  d.sampling = layout.take<RowSampling>(rows);
  d.lists = layout.take<RowLists>(rows);
  d.counts = layout.take<uint16_t>(rows * d.vocab_stride);
  d.token = layout.take<int32_t>(l.max_tokens);
  d.position = layout.take<int32_t>(l.max_tokens);
  d.slot = layout.take<int32_t>(l.max_tokens);
  d.decode_row = layout.take<int32_t>(rows);
  d.decode_context = layout.take<int32_t>(rows);
  d.samples = layout.take<StepSample>(rows);
  d.sampled = layout.take<int32_t>(rows);
  return layout.used();
}

size_t lay_out_pinned(StepState::Device& d, const StepState::Limits& l, std::byte* base) {
  constexpr int64_t kRing = StepState::kRing;
  Layout layout(base);
  d.ring_tokens = layout.take<StepToken>(kRing * l.max_tokens);
  d.ring_samples = layout.take<StepSample>(kRing * l.max_rows);
  d.outcomes = layout.take<StepOutcome>(kRing);
  d.sample_outcomes = layout.take<SampleOutcome>(kRing * l.max_rows);
  d.top = layout.take<TokenLogprob>(kRing * l.max_rows * kMaxTopLogprobs);
  return layout.used();
}

}  // namespace

bool has_kernels() {
  cudaFuncAttributes attributes = {};
  const bool found = cudaFuncGetAttributes(&attributes, begin_step_kernel) == cudaSuccess;
  if (!found) static_cast<void>(cudaGetLastError());
  return found;
}

RowSampling row_sampling(const SamplingParams& p, int32_t n_prompt) {
  RowSampling s;
  s.temperature = p.temperature;
  s.top_p = p.top_p;
  s.min_p = p.min_p;
  s.repetition_penalty = p.repetition_penalty;
  s.presence_penalty = p.presence_penalty;
  s.frequency_penalty = p.frequency_penalty;
  s.seed = p.seed;
  s.top_k = p.top_k;
  s.n_logprobs = std::min(p.n_logprobs, kMaxTopLogprobs);
  s.min_tokens = p.min_tokens;
  s.n_prompt = n_prompt;
  s.n_bias = static_cast<int32_t>(p.logit_bias.size());
  s.n_stop = static_cast<int32_t>(p.stop_tokens.size());
  s.counts = sampling::uses_counts(p) ? 1 : 0;
  const bool masks = p.min_tokens > 0 && s.n_stop > 0;
  s.one_scan = sampling::needs_whole_row(p) || s.counts != 0 || s.n_bias > 0 || masks ? 0 : 1;
  TROUPE_CHECK(s.n_bias <= RowSampling::kMaxBias && s.n_stop <= RowSampling::kMaxStop)
      << s.n_bias << " biases, " << s.n_stop << " stop tokens";
  return s;
}

size_t StepState::device_bytes(const Limits& limits) {
  Device d;
  return lay_out_device(d, limits, nullptr);
}

StepState::StepState(const Limits& limits) : limits_(limits) {
  const size_t bytes = lay_out_device(device_, limits, nullptr);
  TROUPE_CUDA(cudaMalloc(&device_memory_, bytes));
  TROUPE_CUDA(cudaMemset(device_memory_, 0, bytes));
  lay_out_device(device_, limits, device_memory_);
  const size_t pinned = lay_out_pinned(device_, limits, nullptr);
  TROUPE_CUDA(cudaHostAlloc(&pinned_, pinned, cudaHostAllocMapped | cudaHostAllocPortable));
  std::memset(pinned_, 0, pinned);
  lay_out_pinned(device_, limits, pinned_);
  TROUPE_CUDA(cudaHostAlloc(&staging_, kStagingBytes * kRing, cudaHostAllocMapped));
}

StepState::~StepState() {
  cudaFree(device_memory_);
  cudaFreeHost(pinned_);
  cudaFreeHost(staging_);
}

std::span<StepToken> StepState::tokens(uint64_t k) const {
  const auto n = static_cast<size_t>(limits_.max_tokens);
  return {const_cast<StepToken*>(device_.ring_tokens) + k % kRing * n, n};
}

std::span<StepSample> StepState::samples(uint64_t k) const {
  const auto n = static_cast<size_t>(limits_.max_rows);
  return {const_cast<StepSample*>(device_.ring_samples) + k % kRing * n, n};
}

/// Pinned bytes that stay untouched until step k has ended; null when the entry's are used up.
void* StepState::stage(uint64_t k, size_t bytes) {
  const size_t entry = k % kRing;
  if (staged_step_[entry] != k) {
    staged_step_[entry] = k;
    staged_[entry] = 0;
  }
  if (staged_[entry] + aligned(bytes) > kStagingBytes) return nullptr;
  void* at = staging_ + entry * kStagingBytes + staged_[entry];
  staged_[entry] += aligned(bytes);
  return at;
}

void StepState::open_row(uint64_t k, int32_t row, const SamplingParams& params, int32_t n_prompt,
                         std::span<const int32_t> prefix_slots,
                         std::span<const int32_t> prefix_tokens, cudaStream_t stream) {
  // A copy from ordinary memory waits for the stream: right, but the device idles. It happens only
  // when one step opens rows with more than a million cached tokens.
  const auto upload = [&](void* to, const void* from, size_t bytes) -> const void* {
    void* staged = stage(k, bytes);
    if (staged != nullptr) from = std::memcpy(staged, from, bytes);
    TROUPE_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream));
    return from;
  };
  const RowSampling sampling = row_sampling(params, n_prompt);
  upload(device_.sampling + row, &sampling, sizeof(sampling));
  if (sampling.n_bias > 0)
    upload(device_.lists[row].bias, params.logit_bias.data(), params.logit_bias.size() * 8);
  if (sampling.n_stop > 0 && sampling.min_tokens > 0)
    upload(device_.lists[row].stop, params.stop_tokens.data(), params.stop_tokens.size() * 4);
  if (!prefix_slots.empty())
    upload(device_.slot_table + row * device_.slot_stride, prefix_slots.data(),
           prefix_slots.size_bytes());
  if (sampling.counts == 0) return;
  const auto stride = static_cast<size_t>(device_.vocab_stride);
  TROUPE_CUDA(cudaMemsetAsync(device_.counts + static_cast<size_t>(row) * stride, 0,
                              stride * sizeof(uint16_t), stream));
  if (prefix_tokens.empty()) return;
  // The kernel reads a device copy: the step's own token arrays are not in use yet.
  for (size_t begin = 0; begin < prefix_tokens.size();) {
    const size_t n =
        std::min(prefix_tokens.size() - begin, static_cast<size_t>(limits_.max_tokens));
    upload(device_.token, prefix_tokens.data() + begin, n * sizeof(int32_t));
    const auto prompt_left = std::max<int64_t>(0, n_prompt - static_cast<int64_t>(begin));
    launch(count_prefix_kernel, dim3(1), dim3(kThreads), 0, stream, device_, row,
           static_cast<const int32_t*>(device_.token), static_cast<int32_t>(n),
           static_cast<int32_t>(std::min<int64_t>(prompt_left, static_cast<int64_t>(n))));
    begin += n;
  }
}

void StepState::begin_step(int32_t n_tokens, int32_t n_decode, int32_t n_samples,
                           cudaStream_t stream) {
  const int32_t n = std::max(n_tokens, n_samples);
  // Not overlapped with the step before: its slots and last tokens are read here, and the time
  // stamp would be that of the launch.
  begin_step_kernel<<<static_cast<unsigned>((n + kThreads - 1) / kThreads), kThreads, 0, stream>>>(
      device_, n_tokens, n_decode, n_samples);
  TROUPE_CUDA(cudaGetLastError());
}

}  // namespace troupe::cuda
