#include "gpu/sampler_row.h"

#include "gpu/ops/kernels.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace troupe {

bool better(const Choice& a, const Choice& b) {
  if (a.token < 0 || b.token < 0) return a.token >= 0;
  return a.score > b.score || (a.score == b.score && a.token < b.token);
}

namespace sampling {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

using Candidate = std::pair<float, int32_t>;

bool more_probable(const Candidate& a, const Candidate& b) {
  return a.first > b.first || (a.first == b.first && a.second < b.second);
}

/// Standard Gumbel noise from a random word: u is the middle of the word's interval of (0, 1).
double gumbel(uint32_t word) {
  const double u = (static_cast<double>(word) + 0.5) / 4294967296.0;
  return -std::log(-std::log(u));
}

double score(float logit, float temperature, uint32_t word) {
  return static_cast<double>(logit) / static_cast<double>(temperature) + gumbel(word);
}

int32_t first_index_of(std::span<const float> x, float value) {
  return static_cast<int32_t>(std::find(x.begin(), x.end(), value) - x.begin());
}

/// Gumbel-max over a slice. Most tokens are too improbable for their noise to matter: only those
/// whose word could lift them above the best score so far get exact noise. The bound rests on
/// -log(-log(u)) <= -log(1 - u); the result is that of scoring every token.
Choice choose_with_noise(LogitSlice logits, const SamplingParams& params, int32_t position,
                         Isa isa) {
  const cpu::Kernels& k = cpu::kernels(isa);
  const auto n = static_cast<int32_t>(logits.values.size());
  const float* x = logits.values.data();
  const float peak = k.largest(x, n);
  if (!(peak > kMasked)) return {};
  constexpr int32_t kBlock = 512;
  std::array<uint32_t, kBlock + 8> words;
  std::array<int32_t, kBlock> hits;

  const int32_t at_peak = first_index_of(logits.values, peak);
  const int32_t peak_token = logits.first + at_peak;
  k.random_words(words.data(), params.seed, position, static_cast<uint32_t>(peak_token) / 4, 1);
  Choice best{score(peak, params.temperature, words[static_cast<size_t>(peak_token % 4)]),
              peak_token, 0};
  const double inverse = 1.0 / static_cast<double>(params.temperature);
  for (int32_t begin = 0; begin < n; begin += kBlock) {
    const int32_t count = std::min(kBlock, n - begin);
    const int32_t token = logits.first + begin;
    const int32_t skip = token % 4;  // a group of four words may begin in another slice
    k.random_words(words.data(), params.seed, position, static_cast<uint32_t>(token / 4),
                   (skip + count + 3) / 4);
    const auto offset = static_cast<float>(static_cast<double>(peak) * inverse - best.score);
    const int32_t n_hits = k.lifted(hits.data(), x + begin, words.data() + skip, count, peak,
                                    static_cast<float>(inverse), offset);
    for (int32_t h = 0; h < n_hits; ++h) {
      const int32_t i = hits[static_cast<size_t>(h)];
      if (x[begin + i] == kMasked) continue;
      const uint32_t word = words[static_cast<size_t>(skip) + static_cast<size_t>(i)];
      const Choice c{score(x[begin + i], params.temperature, word), token + i, 0};
      if (better(c, best)) best = c;
    }
  }
  return best;
}

/// Collects the most probable tokens, most of the row's mass but few of its tokens as a rule: all
/// whose logit is within `reach` of the peak. Complete from the top down whatever the reach.
void collect(LogitSlice logits, float peak, float reach, std::vector<Candidate>& out) {
  out.clear();
  const float low = peak - reach;
  for (size_t i = 0; i < logits.values.size(); ++i) {
    const float x = logits.values[i];
    if (x >= low && x > kMasked) out.emplace_back(x, logits.first + static_cast<int32_t>(i));
  }
}

/// Keeps the shortest prefix of the candidates, ordered by probability, whose mass is at least
/// `need`: a quickselect on mass, not a sort.
void keep_mass(std::vector<Candidate>& c, double need, float peak, double inverse) {
  const auto mass = [&](size_t begin, size_t end) {
    double m = 0.0;
    for (size_t i = begin; i < end; ++i)
      m += std::exp(static_cast<double>(c[i].first - peak) * inverse);
    return m;
  };
  size_t low = 0;
  size_t high = c.size();
  while (high - low > 1) {
    const size_t middle = low + (high - low) / 2;
    std::nth_element(c.begin() + static_cast<std::ptrdiff_t>(low),
                     c.begin() + static_cast<std::ptrdiff_t>(middle),
                     c.begin() + static_cast<std::ptrdiff_t>(high), more_probable);
    const double upper = mass(low, middle);
    if (upper >= need) {
      high = middle;
    } else {
      need -= upper;
      low = middle;
    }
  }
  c.resize(high);
}

}  // namespace

bool uses_counts(const SamplingParams& p) {
  return p.repetition_penalty != 1.0F || p.presence_penalty != 0.0F || p.frequency_penalty != 0.0F;
}

bool needs_whole_row(const SamplingParams& p) {
  if (p.n_logprobs >= 0) return true;
  return p.temperature > 0.0F && (p.top_k > 0 || p.top_p < 1.0F || p.min_p > 0.0F);
}

void adjust(LogitSlice logits, const SamplingParams& params, const TokenCounts& counts,
            int32_t n_produced) {
  const auto at = [&](int32_t token) -> float* {
    const int64_t i = static_cast<int64_t>(token) - logits.first;
    const bool here = i >= 0 && i < static_cast<int64_t>(logits.values.size());
    return here ? &logits.values[static_cast<size_t>(i)] : nullptr;
  };
  for (const LogitBias& b : params.logit_bias)
    if (float* x = at(b.token)) *x += b.bias;
  if (uses_counts(params)) {
    for (const auto& [token, count] : counts) {
      float* x = at(token);
      if (x == nullptr) continue;
      *x = *x > 0.0F ? *x / params.repetition_penalty : *x * params.repetition_penalty;
      if (count.in_output > 0)
        *x -= params.presence_penalty +
              params.frequency_penalty * static_cast<float>(count.in_output);
    }
  }
  if (n_produced < params.min_tokens)
    for (const int32_t token : params.stop_tokens)
      if (float* x = at(token)) *x = kMasked;
}

Choice choose(LogitSlice logits, const SamplingParams& params, int32_t position, Isa isa) {
  if (params.temperature > 0.0F) return choose_with_noise(logits, params, position, isa);
  const float peak =
      cpu::kernels(isa).largest(logits.values.data(), static_cast<int64_t>(logits.values.size()));
  if (!(peak > kMasked)) return {};
  return {static_cast<double>(peak), logits.first + first_index_of(logits.values, peak), 0};
}

Choice choose_truncated(LogitSlice logits, const SamplingParams& params, int32_t position, Isa isa,
                        Workspace& workspace) {
  if (!(params.temperature > 0.0F)) return choose(logits, params, position, isa);
  const cpu::Kernels& k = cpu::kernels(isa);
  const auto n = static_cast<int64_t>(logits.values.size());
  const float peak = k.largest(logits.values.data(), n);
  if (!(peak > kMasked)) return {};
  const double inverse = 1.0 / static_cast<double>(params.temperature);
  auto& c = workspace.candidates;
  const bool by_mass = params.top_p < 1.0F;
  const bool by_rank = params.top_k > 0 && params.top_k < n;
  const double p = static_cast<double>(params.top_p);
  const double all = by_mass && !by_rank
                         ? k.sum_exp(logits.values.data(), n, peak, static_cast<float>(inverse))
                         : 0.0;
  // Min-p alone is a threshold, and it never needs candidates below it.
  const float floor_reach =
      params.min_p > 0.0F
          ? static_cast<float>(-std::log(static_cast<double>(params.min_p)) / inverse)
          : std::numeric_limits<float>::infinity();
  for (float reach = 10.0F * params.temperature;; reach *= 2.0F) {
    const bool whole = reach > 80.0F * params.temperature;
    collect(logits, peak, whole ? std::numeric_limits<float>::infinity() : reach, c);
    if (whole) break;
    if (by_rank) {
      if (c.size() >= static_cast<size_t>(params.top_k)) break;
    } else if (by_mass) {
      double m = 0.0;
      for (const Candidate& x : c) m += std::exp(static_cast<double>(x.first - peak) * inverse);
      if (m >= p * all) break;
    } else if (reach >= floor_reach) {
      break;
    }
  }
  if (by_rank && c.size() > static_cast<size_t>(params.top_k)) {
    std::nth_element(c.begin(), c.begin() + params.top_k, c.end(), more_probable);
    c.resize(static_cast<size_t>(params.top_k));
  }
  if (by_mass) {
    double total = all;
    if (by_rank) {
      std::sort(c.begin(), c.end(), more_probable);  // k of them; a sum in a known order
      total = 0.0;
      for (const Candidate& x : c) total += std::exp(static_cast<double>(x.first - peak) * inverse);
    }
    keep_mass(c, p * total, peak, inverse);
  }
  if (params.min_p > 0.0F) {
    const double least = static_cast<double>(params.min_p);
    std::erase_if(c, [&](const Candidate& x) {
      return std::exp(static_cast<double>(x.first - peak) * inverse) < least;
    });
  }
  if (c.size() > 256) {  // a flat row: mask the others and scan
    std::sort(c.begin(), c.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    size_t next = 0;
    for (size_t i = 0; i < logits.values.size(); ++i) {
      if (next < c.size() && c[next].second == logits.first + static_cast<int32_t>(i))
        ++next;
      else
        logits.values[i] = kMasked;
    }
    return choose_with_noise(logits, params, position, isa);
  }
  Choice best;
  for (const Candidate& x : c) {
    std::array<uint32_t, 4> words;
    k.random_words(words.data(), params.seed, position, static_cast<uint32_t>(x.second / 4), 1);
    const Choice choice{
        score(x.first, params.temperature, words[static_cast<size_t>(x.second % 4)]), x.second, 0};
    if (better(choice, best)) best = choice;
  }
  return best;
}

double log_sum_exp(LogitSlice logits, Isa isa) {
  const cpu::Kernels& k = cpu::kernels(isa);
  const auto n = static_cast<int64_t>(logits.values.size());
  const float peak = k.largest(logits.values.data(), n);
  return static_cast<double>(peak) + std::log(k.sum_exp(logits.values.data(), n, peak, 1.0F));
}

std::vector<TokenLogprob> top_logprobs(LogitSlice logits, int32_t k, double log_sum) {
  // A heap of the k best, the worst of them in front.
  std::vector<Candidate> heap;
  const auto size = static_cast<size_t>(std::max(k, 0));
  if (size == 0) return {};
  for (size_t i = 0; i < logits.values.size(); ++i) {
    const Candidate c{logits.values[i], logits.first + static_cast<int32_t>(i)};
    if (heap.size() == size) {
      if (!more_probable(c, heap.front())) continue;
      std::pop_heap(heap.begin(), heap.end(), more_probable);
      heap.pop_back();
    }
    heap.push_back(c);
    std::push_heap(heap.begin(), heap.end(), more_probable);
  }
  std::sort_heap(heap.begin(), heap.end(), more_probable);
  std::vector<TokenLogprob> top;
  top.reserve(heap.size());
  for (const Candidate& c : heap)
    top.push_back({c.second, static_cast<float>(static_cast<double>(c.first) - log_sum)});
  return top;
}

}  // namespace sampling
}  // namespace troupe
