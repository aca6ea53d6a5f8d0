#include "gpu/sampler.h"

#include "gpu/base/check.h"
#include "gpu/communicator.h"
#include "gpu/device/stream.h"
#include "gpu/ops/kernels.h"
#include "gpu/sampler_row.h"

#include <algorithm>

namespace troupe {
namespace {

// Whole rows are gathered a few at a time, which bounds the buffers: 8 * vocabulary * 4 bytes.
constexpr size_t kRowsPerGather = 8;

struct Row {
  bool open = false;
  SamplingParams params;
  int32_t n_prompt = 0;
  TokenCounts counts;
};

struct VocabRange {
  int32_t first = 0;
  int32_t size = 0;
};

}  // namespace

struct Sampler::State {
  int32_t vocab_total = 0;
  VocabRange mine;
  std::vector<Row> rows;
  std::vector<VocabRange> ranges;  // of every rank, once known
  int32_t widest = 0;

  std::vector<Choice> choices;                  // [plain requests]
  std::vector<Choice> all_choices;              // [rank][plain requests]
  std::vector<size_t> plain, whole;             // indices into the requests
  std::vector<float> outgoing;                  // [row][widest]
  std::vector<float> gathered;                  // [rank][row][widest]
  std::vector<float> full;                      // [thread][vocab_total]
  std::vector<sampling::Workspace> workspaces;  // [thread]

  Row& row(int32_t i) {
    TROUPE_CHECK(i >= 0 && static_cast<size_t>(i) < rows.size()) << i << " of " << rows.size();
    return rows[static_cast<size_t>(i)];
  }
  const Row& open_row(int32_t i) {
    const Row& r = row(i);
    TROUPE_CHECK(r.open) << i;
    return r;
  }

  void learn_ranges(Communicator& communicator, Stream& stream);
  void sample_plain(std::span<const Request> requests, float* logits, Communicator& communicator,
                    Stream& stream, std::span<SampledToken> out);
  void sample_whole(std::span<const Request> requests, std::span<const size_t> which,
                    const float* logits, Communicator& communicator, Stream& stream,
                    std::span<SampledToken> out);
  SampledToken sample_full_row(const Request& request, LogitSlice logits, Isa isa,
                               sampling::Workspace& workspace);
};

Sampler::Sampler(int32_t vocab_total, int32_t vocab_begin, int32_t vocab_local, int32_t max_rows)
    : state_(std::make_unique<State>()) {
  TROUPE_CHECK(vocab_begin >= 0 && vocab_local >= 0 && vocab_begin + vocab_local <= vocab_total)
      << vocab_begin << ' ' << vocab_local << ' ' << vocab_total;
  state_->vocab_total = vocab_total;
  state_->mine = {vocab_begin, vocab_local};
  state_->rows.resize(static_cast<size_t>(max_rows));
}

Sampler::~Sampler() = default;

void Sampler::open(int32_t row, const SamplingParams& params, int32_t n_prompt) {
  Row& r = state_->row(row);
  TROUPE_CHECK(!r.open) << row;
  r.open = true;
  r.params = params;
  r.n_prompt = n_prompt;
}

void Sampler::close(int32_t row) {
  Row& r = state_->row(row);
  TROUPE_CHECK(r.open) << row;
  r = Row{};
}

void Sampler::observe(int32_t row, int32_t first_position, std::span<const int32_t> tokens) {
  Row& r = state_->row(row);
  TROUPE_CHECK(r.open) << row;
  if (!sampling::uses_counts(r.params)) return;
  int32_t position = first_position;
  for (const int32_t token : tokens) {
    TokenCount& count = r.counts[token];
    if (position++ < r.n_prompt)
      count.in_prompt = true;
    else
      ++count.in_output;
  }
}

void Sampler::sample(std::span<const Request> requests, float* logits, Communicator& communicator,
                     Stream& stream, std::vector<SampledToken>& out) {
  if (requests.empty()) return;
  State& s = *state_;
  if (s.ranges.empty()) s.learn_ranges(communicator, stream);
  s.plain.clear();
  s.whole.clear();
  for (size_t i = 0; i < requests.size(); ++i) {
    const Row& row = s.open_row(requests[i].row);
    (sampling::needs_whole_row(row.params) ? s.whole : s.plain).push_back(i);
  }
  const size_t before = out.size();
  out.resize(before + requests.size());
  const auto results = std::span<SampledToken>(out).subspan(before);
  if (!s.plain.empty()) s.sample_plain(requests, logits, communicator, stream, results);
  for (size_t i = 0; i < s.whole.size(); i += kRowsPerGather) {
    const auto which =
        std::span<const size_t>(s.whole).subspan(i, std::min(kRowsPerGather, s.whole.size() - i));
    s.sample_whole(requests, which, logits, communicator, stream, results);
  }
}

/// Slices may be of unequal length and rows are gathered padded, so the first call exchanges them.
void Sampler::State::learn_ranges(Communicator& communicator, Stream& stream) {
  ranges.resize(static_cast<size_t>(communicator.size()));
  communicator.all_gather(std::as_bytes(std::span(&mine, 1)),
                          std::as_writable_bytes(std::span(ranges)), stream);
  int64_t total = 0;
  for (const VocabRange& r : ranges) {
    TROUPE_CHECK(r.first >= 0 && r.size >= 0 && r.first <= vocab_total - r.size)
        << r.first << ' ' << r.size;
    widest = std::max(widest, r.size);
    total += r.size;
  }
  TROUPE_CHECK(total == vocab_total) << total << ' ' << vocab_total;
}

/// Every rank finds the best token of its slice; the best of those wins.
void Sampler::State::sample_plain(std::span<const Request> requests, float* logits,
                                  Communicator& communicator, Stream& stream,
                                  std::span<SampledToken> out) {
  const cpu::Kernels& k = cpu::kernels(stream.isa());
  choices.assign(plain.size(), {});
  const auto body = [&](int64_t begin, int64_t end, int32_t) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      const Request& request = requests[plain[i]];
      const Row& row = open_row(request.row);
      float* values = logits + plain[i] * static_cast<size_t>(mine.size);
      if (!k.all_finite(values, mine.size)) {
        choices[i].failed = 1;
        continue;
      }
      const LogitSlice slice{mine.first, {values, static_cast<size_t>(mine.size)}};
      sampling::adjust(slice, row.params, row.counts, request.position - row.n_prompt);
      choices[i] = sampling::choose(slice, row.params, request.position, stream.isa());
    }
  };
  stream.parallel_for(static_cast<int64_t>(plain.size()), 1, body);

  const auto n_ranks = static_cast<size_t>(communicator.size());
  all_choices.resize(n_ranks * plain.size());
  communicator.all_gather(std::as_bytes(std::span(choices)),
                          std::as_writable_bytes(std::span(all_choices)), stream);
  for (size_t i = 0; i < plain.size(); ++i) {
    Choice best;
    int32_t failed = 0;
    for (size_t r = 0; r < n_ranks; ++r) {
      const Choice& c = all_choices[r * plain.size() + i];
      failed |= c.failed;
      if (better(c, best)) best = c;
    }
    SampledToken& token = out[plain[i]];
    token.row = requests[plain[i]].row;
    token.failed = failed != 0 || best.token < 0;
    token.token = token.failed ? 0 : best.token;
  }
}

/// Every rank gets the whole rows and computes the same answer from them.
void Sampler::State::sample_whole(std::span<const Request> requests, std::span<const size_t> which,
                                  const float* logits, Communicator& communicator, Stream& stream,
                                  std::span<SampledToken> out) {
  const auto width = static_cast<size_t>(widest);
  const auto local = static_cast<size_t>(mine.size);
  outgoing.resize(which.size() * width);
  for (size_t i = 0; i < which.size(); ++i)
    std::copy_n(logits + which[i] * local, local, outgoing.data() + i * width);
  gathered.resize(ranges.size() * outgoing.size());
  communicator.all_gather(std::as_bytes(std::span(outgoing)),
                          std::as_writable_bytes(std::span(gathered)), stream);

  const auto total = static_cast<size_t>(vocab_total);
  full.resize(static_cast<size_t>(stream.n_threads()) * total);
  workspaces.resize(static_cast<size_t>(stream.n_threads()));
  const auto body = [&](int64_t begin, int64_t end, int32_t thread) {
    float* row = full.data() + static_cast<size_t>(thread) * total;
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      for (size_t r = 0; r < ranges.size(); ++r)
        std::copy_n(gathered.data() + (r * which.size() + i) * width,
                    static_cast<size_t>(ranges[r].size), row + ranges[r].first);
      out[which[i]] = sample_full_row(requests[which[i]], {0, {row, total}}, stream.isa(),
                                      workspaces[static_cast<size_t>(thread)]);
    }
  };
  stream.parallel_for(static_cast<int64_t>(which.size()), 1, body);
}

SampledToken Sampler::State::sample_full_row(const Request& request, LogitSlice logits, Isa isa,
                                             sampling::Workspace& workspace) {
  const Row& row = open_row(request.row);
  SampledToken result;
  result.row = request.row;
  if (!cpu::kernels(isa).all_finite(logits.values.data(), vocab_total)) {
    result.failed = true;
    return result;
  }
  const bool logprobs = row.params.n_logprobs >= 0;
  double log_sum = 0.0;
  if (logprobs) {
    log_sum = sampling::log_sum_exp(logits, isa);
    result.top =
        sampling::top_logprobs(logits, std::min(row.params.n_logprobs, vocab_total), log_sum);
    workspace.original.assign(logits.values.begin(), logits.values.end());
  }
  sampling::adjust(logits, row.params, row.counts, request.position - row.n_prompt);
  const Choice choice =
      sampling::choose_truncated(logits, row.params, request.position, isa, workspace);
  result.failed = choice.token < 0;
  if (result.failed) return result;
  result.token = choice.token;
  if (logprobs)
    result.logprob = static_cast<float>(
        static_cast<double>(workspace.original[static_cast<size_t>(choice.token)]) - log_sum);
  return result;
}

}  // namespace troupe
