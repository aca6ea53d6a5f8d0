#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/sampler.h"
#include "gpu/cuda/sampler_truncate.cuh"

#include <algorithm>

namespace troupe::cuda {
namespace {

constexpr int32_t kMaxSplits = 32;  // blocks that share a row

struct Partial {
  double score;
  int32_t id;
  int32_t failed;
};

struct Job {
  float* logits;
  int32_t vocab;
  int32_t n_rows;
  Partial* partials;     // [max_rows][kMaxSplits]
  uint32_t* row_ticket;  // [max_rows], zero between steps
  uint32_t* step_ticket;
  StepState::Device d;
};

__device__ __forceinline__ uint64_t clock_ns() {
  uint64_t ns = 0;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
  return ns;
}

__device__ __forceinline__ bool finite(float x) {
  return (__float_as_uint(x) & 0x7f800000U) != 0x7f800000U;
}

/// Best candidate of the block, in every thread.
__device__ __noinline__ Candidate best_of_block(Candidate c, Candidate* scratch) {
  c = best_of_warp(c);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = c;
  __syncthreads();
  c = scratch[0];
#pragma unroll 1
  for (int w = 1; w < kSampleThreads / 32; ++w)
    if (beats(scratch[w], c)) c = scratch[w];
  return c;
}

/// The best token that a thread has seen, by its exact score, which is computed only when
/// approximate ones cannot tell: its logarithms in double would be most of a scan.
struct Leader {
  float approximate = 0.0F;
  float logit = 0.0F;
  uint32_t word = 0;
  int32_t id = -1;
};

__device__ __noinline__ bool beats_exactly(Leader a, Leader b, float temperature) {
  const Candidate x = {exact_score(a.logit, temperature, a.word), a.id};
  return beats(x, {exact_score(b.logit, temperature, b.word), b.id});
}

/// What a score must reach to matter: about the best of the warp. Any lane may be missing.
__device__ __forceinline__ float bar_of_warp(const Leader& best) {
#if __CUDA_ARCH__ >= 800
  const float mine = best.id >= 0 ? best.approximate : -INFINITY;
  const float bar = from_key(__reduce_max_sync(__activemask(), sort_key(mine)));
  return bar - score_margin(bar, bar);
#else
  return -INFINITY;
#endif
}

__device__ __forceinline__ void score_group(Leader& best, const float (&x)[4], int32_t first,
                                            int32_t n, const RowSampling& p, int32_t position,
                                            float inverse, float bar) {
  const Words words = random_words(p.seed, position, static_cast<uint32_t>(first) / 4);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (first + j >= n || x[j] == -INFINITY) continue;
    if (score_bound(x[j], inverse, words.w[j]) < bar) continue;
    const Leader c = {approximate_score(x[j], inverse, words.w[j]), x[j], words.w[j], first + j};
    const float margin = score_margin(c.approximate, best.approximate);
    if (best.id < 0 || c.approximate > best.approximate + margin) {
      best = c;
    } else if (!(c.approximate < best.approximate - margin)) {
      if (beats_exactly(c, best, p.temperature)) best = c;
    }
  }
}

struct KeepAll {
  __device__ bool operator()(float /*x*/, int32_t /*id*/) const { return true; }
};

/// Tokens of groups begin, begin + stride ... that are kept: arg max, with noise unless greedy
/// (which keeps all). kDeep groups are in flight.
template <int kDeep, class Keep>
__device__ Partial scan(const float* row, int32_t n, const RowSampling& p, int32_t position,
                        int32_t begin, int32_t stride, Candidate* scratch, const Keep& keep) {
  const bool aligned = reinterpret_cast<uintptr_t>(row) % 16 == 0;
  const bool greedy = !(p.temperature > 0.0F);
  const float inverse = greedy ? 0.0F : 1.0F / p.temperature;
  Leader leader;
  float largest = -INFINITY;
  int32_t largest_id = -1;
  bool bad = false;
#pragma unroll 1
  for (int32_t first = begin; first * 4 < n; first += kDeep * stride) {
    float x[kDeep][4];
#pragma unroll
    for (int u = 0; u < kDeep; ++u) load_group(x[u], row, (first + u * stride) * 4, n, aligned);
    const float bar = greedy ? 0.0F : bar_of_warp(leader);
#pragma unroll
    for (int u = 0; u < kDeep; ++u) {
      const int32_t id = (first + u * stride) * 4;
      if (id >= n) break;
#pragma unroll
      for (int j = 0; j < 4; ++j) bad |= !finite(x[u][j]);
      if (greedy) {
#pragma unroll
        for (int j = 0; j < 4; ++j)
          if (id + j < n && x[u][j] > largest) largest = x[u][j], largest_id = id + j;
      } else {
        bool any = false;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (!keep(x[u][j], id + j)) x[u][j] = -INFINITY;
          any |= x[u][j] != -INFINITY;
        }
        if (any) score_group(leader, x[u], id, n, p, position, inverse, bar);
      }
    }
  }
  Candidate best = {0.0, -1};
  if (greedy)
    best = {static_cast<double>(largest), largest_id};
  else if (leader.id >= 0)
    best = {exact_score(leader.logit, p.temperature, leader.word), leader.id};
  best = best_of_block(best, scratch);
  return {best.score, best.id, __syncthreads_or(bad ? 1 : 0)};
}

// ---- a row that needs all its logits at once ----------------------------------------------------

/// The logit before adjust_row(): undoes it for the chosen token.
__device__ __noinline__ float original_logit(float x, int32_t id, const RowSampling& p,
                                             const RowLists& lists, const uint16_t* counts) {
  auto v = static_cast<double>(x);
  if (p.counts != 0 && counts[id] != 0) {
    const int32_t in_output = counts[id] & 0x7fff;
    if (in_output > 0)
      v += static_cast<double>(p.presence_penalty) +
           static_cast<double>(p.frequency_penalty) * in_output;
    v = v > 0 ? v * static_cast<double>(p.repetition_penalty)
              : v / static_cast<double>(p.repetition_penalty);
  }
  for (int32_t i = 0; i < p.n_bias; ++i)
    if (lists.bias[i].token == id) v -= static_cast<double>(lists.bias[i].bias);
  return static_cast<float>(v);
}

/// sampling::adjust() of the CPU: bias, penalties, mask of stop tokens, in this order, for the
/// block's tokens. False when the row stays as it is.
__device__ bool adjust_row(float* x, int32_t n, const Team& team, const RowSampling& p,
                           const RowLists& lists, const uint16_t* counts, int32_t n_produced) {
  const bool masks = n_produced < p.min_tokens && p.n_stop > 0;
  if (p.n_bias == 0 && p.counts == 0 && !masks) return false;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < p.n_bias; i += kSampleThreads) {
    const LogitBias b = lists.bias[i];
    if (b.token >= 0 && b.token < n && team.has(b.token)) x[b.token] += b.bias;
  }
  __syncthreads();
  if (p.counts != 0) {
    for_each_logit<kFew>(x, n, team, [&](float v, int32_t i) {
      const uint16_t c = counts[i];
      if (c == 0) return;
      v = v > 0.0F ? v / p.repetition_penalty : v * p.repetition_penalty;
      const int32_t in_output = c & 0x7fff;
      if (in_output > 0)
        v -= __fadd_rn(p.presence_penalty,
                       __fmul_rn(p.frequency_penalty, static_cast<float>(in_output)));
      x[i] = v;
    });
  }
  __syncthreads();
  if (masks) {
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < p.n_stop; i += kSampleThreads) {
      const int32_t stop = lists.stop[i];
      if (stop >= 0 && stop < n && team.has(stop)) x[stop] = -INFINITY;
    }
  }
  __syncthreads();
  return true;
}

__device__ Largest largest_of_row(RowScratch& s, const float* x, int32_t n, const Team& team) {
  float largest = -INFINITY;
  bool bad = false;
  for_each_logit<kMany>(x, n, team, [&](float v, int32_t /*id*/) {
    largest = fmaxf(largest, v);
    bad |= !finite(v);
  });
  const int32_t failed = __syncthreads_or(bad ? 1 : 0);
  const Candidate best =
      best_of_block({static_cast<double>(largest), static_cast<int32_t>(threadIdx.x)}, s.warp_best);
  return team.combine(Largest{static_cast<float>(best.score), failed}, &s.team_largest,
                      [](const Largest& a, const Largest& b) {
                        return Largest{fmaxf(a.logit, b.logit), a.failed | b.failed};
                      });
}

/// log(sum(exp(x))) of the row, and its most probable tokens in the first block's s.top, best
/// first.
__device__ __noinline__ double log_sum_and_top(RowScratch& s, const Row& row, int32_t n_top) {
  const Team& team = row.team;
  RowScratch& lead = *team.of(&s, 0);
  double sum = 0.0;
  for_each_logit<kFew>(row.x, row.n, team, [&](float x, int32_t /*id*/) {
    if (x - row.peak > -80.0F) sum += static_cast<double>(expf(x - row.peak));
  });
  sum = team.combine(sum_block(sum, s.warp_double), &s.team_double,
                     [](double a, double b) { return a + b; });
  const double log_sum = static_cast<double>(row.peak) + log(sum);
  n_top = min(n_top, row.n);
  if (n_top <= 0) return log_sum;
  const Threshold best = select(s, row, Threshold{}, {.tokens = n_top});
  for_each_logit<kFew>(row.x, row.n, team, [&](float x, int32_t id) {
    if (best.keeps(x, id)) lead.top[atomicAdd(&lead.n_top, 1)] = {id, x};
  });
  team.sync();
  if (team.rank == 0 && threadIdx.x == 0) {
    for (int32_t i = 1; i < s.n_top; ++i) {  // at most kMaxTopLogprobs: insertion sort
      const TokenLogprob c = s.top[i];
      int32_t j = i;
      for (; j > 0 && (s.top[j - 1].logprob < c.logprob ||
                       (s.top[j - 1].logprob == c.logprob && s.top[j - 1].token > c.token));
           --j)
        s.top[j] = s.top[j - 1];
      s.top[j] = c;
    }
    for (int32_t i = 0; i < s.n_top; ++i)
      s.top[i].logprob = static_cast<float>(static_cast<double>(s.top[i].logprob) - log_sum);
  }
  __syncthreads();
  return log_sum;
}

/// Of a token relative to the most probable one. Not inlined, as exact_score().
__device__ __noinline__ double exact_probability(float below_peak, double inverse) {
  return exp(static_cast<double>(below_peak) * inverse);
}

/// What the CPU chooses from an adjusted row: see sampling::choose_truncated().
__device__ Candidate choose(RowScratch& s, Row row, const RowSampling& p, int32_t position) {
  const bool greedy = !(p.temperature > 0.0F);
  row.inverse = greedy ? 1.0 : 1.0 / static_cast<double>(p.temperature);
  Threshold kept;
  if (!greedy && p.top_k > 0 && p.top_k < row.n) kept = select(s, row, kept, {.tokens = p.top_k});
  if (!greedy && p.top_p < 1.0F)
    kept = select(s, row, kept, {.share = static_cast<double>(p.top_p)});
  const double least = static_cast<double>(p.min_p);
  const float low = p.min_p > 0.0F
                        ? static_cast<float>(log(least) / row.inverse) - 1e-3F * p.temperature
                        : -INFINITY;
  const auto keep = [&](float x, int32_t id) {
    if (!kept.keeps(x, id) || x - row.peak < low) return false;
    return p.min_p <= 0.0F || exact_probability(x - row.peak, row.inverse) >= least;
  };
  const Partial chosen = scan<kFew>(row.x, row.n, p, position, row.team.first_group(),
                                    row.team.stride(), s.warp_best, keep);
  return {chosen.score, chosen.id};
}

struct Chosen {
  Candidate best;
  float logprob;
  int32_t failed;
};

__device__ Chosen sample_whole_row(RowScratch& s, float* x, int32_t n, const Team& team,
                                   const RowSampling& p, const RowLists& lists,
                                   const uint16_t* counts, int32_t position) {
  if (threadIdx.x == 0) s.n_top = 0;
  team.sync();
  const Largest raw = largest_of_row(s, x, n, team);
  if (raw.failed != 0) return {{0.0, -1}, 0.0F, 1};
  double log_sum = 0.0;
  if (p.n_logprobs >= 0) log_sum = log_sum_and_top(s, {x, n, raw.logit, 1.0, team}, p.n_logprobs);
  float peak = raw.logit;
  if (adjust_row(x, n, team, p, lists, counts, position - p.n_prompt))
    peak = largest_of_row(s, x, n, team).logit;
  Candidate best = {0.0, -1};
  if (peak != -INFINITY) best = choose(s, {x, n, peak, 1.0, team}, p, position);
  best = team.combine(best, &s.team_best,
                      [](const Candidate& a, const Candidate& b) { return beats(b, a) ? b : a; });
  float logprob = 0.0F;
  if (best.id >= 0 && p.n_logprobs >= 0) {
    const float original = original_logit(x[best.id], best.id, p, lists, counts);
    logprob = static_cast<float>(static_cast<double>(original) - log_sum);
  }
  return {best, logprob, best.id < 0 ? 1 : 0};
}

// ---- the kernel ---------------------------------------------------------------------------------

/// Thread 0: the row's token to the next step and to the host.
__device__ void finish_row(const Job& job, uint64_t entry, int32_t i, const StepSample& sample,
                           const Chosen& chosen) {
  SampleOutcome out;
  out.failed = chosen.failed != 0 || chosen.best.id < 0 ? 1 : 0;
  out.token = out.failed != 0 ? 0 : chosen.best.id;
  out.logprob = chosen.logprob;
  job.d.last_token[sample.row] = out.token;
  job.d.sample_outcomes[entry * job.d.max_rows + i] = out;
}

/// Thread 0 of every block, last: the block that ends last ends the step.
__device__ void finish_block(const Job& job, uint32_t n_blocks) {
  __threadfence_system();
  if (atomicAdd(job.step_ticket, 1U) != n_blocks - 1) return;
  *job.step_ticket = 0;
  __threadfence_system();
  const uint64_t step = *job.d.step;
  StepOutcome& out = job.d.outcomes[step % StepState::kRing];
  out.begin_ns = *job.d.begin_ns;
  out.end_ns = clock_ns();
  *job.d.step = step + 1;
  __threadfence_system();
  *static_cast<volatile uint64_t*>(&out.sequence) = step + 1;
}

/// Grid: rows x splits, so that teams of one block spread over the multiprocessors. A team is a
/// cluster of splits, the first `team_size` of its row.
__global__ void __launch_bounds__(kSampleThreads, 2)
    sample_kernel(const __grid_constant__ Job job, int32_t team_size) {
  __shared__ RowScratch s;
  wait_for_upstream();
  const auto split = static_cast<int32_t>(blockIdx.y);
  const auto n_splits = static_cast<int32_t>(gridDim.y);
  const auto i = static_cast<int32_t>(blockIdx.x);
  const uint64_t entry = *job.d.step % StepState::kRing;
  const StepSample sample = i < job.n_rows ? job.d.samples[i] : StepSample{};
  if (sample.row >= 0) {
    const RowSampling& p = job.d.sampling[sample.row];
    float* row = job.logits + int64_t{i} * job.vocab;
    if (p.one_scan != 0) {
      const Partial mine = scan<kMany>(row, job.vocab, p, sample.position,
                                       split * kSampleThreads + static_cast<int32_t>(threadIdx.x),
                                       n_splits * kSampleThreads, s.warp_best, KeepAll{});
      if (threadIdx.x == 0) {
        Partial* partials = job.partials + int64_t{i} * kMaxSplits;
        partials[split] = mine;
        __threadfence();
        const uint32_t ticket = atomicAdd(job.row_ticket + i, 1U);
        if (ticket == static_cast<uint32_t>(n_splits) - 1) {
          __threadfence();
          job.row_ticket[i] = 0;
          Chosen all = {{0.0, -1}, 0.0F, 0};
          for (int32_t k = 0; k < n_splits; ++k) {
            const Partial part = {__ldcg(&partials[k].score), __ldcg(&partials[k].id),
                                  __ldcg(&partials[k].failed)};
            all.failed |= part.failed;
            if (beats({part.score, part.id}, all.best)) all.best = {part.score, part.id};
          }
          finish_row(job, entry, i, sample, all);
        }
      }
    } else if (split < team_size) {
      const uint16_t* counts = job.d.counts + int64_t{sample.row} * job.d.vocab_stride;
      const Chosen chosen = sample_whole_row(s, row, job.vocab, {split, team_size}, p,
                                             job.d.lists[sample.row], counts, sample.position);
      if (split == 0 && threadIdx.x == 0) {
        finish_row(job, entry, i, sample, chosen);
        const int64_t at = static_cast<int64_t>(entry) * job.d.max_rows + i;
        job.d.sample_outcomes[at].n_top = s.n_top;
        for (int32_t k = 0; k < s.n_top; ++k) job.d.top[at * kMaxTopLogprobs + k] = s.top[k];
      }
    }
  }
  if (threadIdx.x == 0) finish_block(job, gridDim.x * gridDim.y);
}

size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

size_t Sampler::device_bytes(int32_t max_rows) {
  const auto rows = static_cast<size_t>(max_rows);
  return aligned(rows * kMaxSplits * sizeof(Partial)) + aligned((rows + 1) * sizeof(uint32_t));
}

Sampler::Sampler(int32_t max_rows, int32_t vocab)
    : max_rows_(max_rows), vocab_(vocab), memory_(device_bytes(max_rows)) {
  TROUPE_CUDA(cudaMemset(memory_.data(), 0, memory_.bytes()));
  int device = 0;
  int clusters = 0;
  TROUPE_CUDA(cudaGetDevice(&device));
  TROUPE_CUDA(cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, device));
  clusters_ = clusters != 0;
}

void Sampler::run(float* logits, int32_t n_rows, const StepState::Device& device,
                  cudaStream_t stream) {
  Job job = {};
  job.logits = logits;
  job.vocab = vocab_;
  job.n_rows = n_rows;
  job.partials = reinterpret_cast<Partial*>(memory_.data());
  job.row_ticket = reinterpret_cast<uint32_t*>(
      memory_.data() + aligned(static_cast<size_t>(max_rows_) * kMaxSplits * sizeof(Partial)));
  job.step_ticket = job.row_ticket + max_rows_;
  job.d = device;
  const int32_t rows = std::max(n_rows, 1);
  const int32_t groups = (vocab_ + 4 * kSampleThreads - 1) / (4 * kSampleThreads);
  int32_t splits = std::clamp(264 / rows, 1, std::clamp(groups, 1, kMaxSplits));
  int32_t team = 1;
  while (clusters_ && team < kMostInTeam && 2 * team <= splits) team *= 2;
  splits -= splits % team;
  launch_clusters(sample_kernel, dim3(1, static_cast<unsigned>(team)),
                  dim3(static_cast<unsigned>(rows), static_cast<unsigned>(splits)),
                  dim3(kSampleThreads), 0, stream, job, team);
}

}  // namespace troupe::cuda
