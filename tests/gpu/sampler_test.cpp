#include "gpu/sampler.h"

#include "gpu/device/stream.h"
#include "tests/support/isas.h"
#include "tests/support/local_communicators.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

namespace troupe {
namespace {

using testing_support::LocalGroup;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Philox4x32-10 written down from the paper (Salmon et al. 2011, section 3.3 and table 2).
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> c, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * c[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ key[0], static_cast<uint32_t>(b),
         static_cast<uint32_t>(a >> 32) ^ c[3] ^ key[1], static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return c;
}

/// What was said of one row, for the naive sampler.
struct RowCase {
  SamplingParams params;
  int32_t n_prompt = 0;
  std::vector<int32_t> history;  // prompt, then output
  int32_t position = 0;
  std::vector<float> logits;
};

std::vector<float> adjusted(const RowCase& row) {
  std::vector<float> x = row.logits;
  const SamplingParams& p = row.params;
  for (const LogitBias& b : p.logit_bias) x[static_cast<size_t>(b.token)] += b.bias;
  std::map<int32_t, int32_t> seen;  // token -> times in the output
  for (size_t i = 0; i < row.history.size(); ++i)
    seen[row.history[i]] += static_cast<int32_t>(i) >= row.n_prompt ? 1 : 0;
  for (const auto& [token, count] : seen) {
    float& l = x[static_cast<size_t>(token)];
    l = l > 0 ? l / p.repetition_penalty : l * p.repetition_penalty;
    if (count > 0) l -= p.presence_penalty + p.frequency_penalty * static_cast<float>(count);
  }
  if (row.position - row.n_prompt < p.min_tokens)
    for (const int32_t t : p.stop_tokens)
      x[static_cast<size_t>(t)] = -std::numeric_limits<float>::infinity();
  return x;
}

/// Sorts everything and scores everything.
int32_t naive_sample(const RowCase& row) {
  const auto x = adjusted(row);
  const SamplingParams& p = row.params;
  std::vector<int32_t> ids(x.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    return x[static_cast<size_t>(a)] > x[static_cast<size_t>(b)];
  });
  if (p.temperature == 0.0F) return ids.front();
  if (p.top_k > 0) ids.resize(std::min(ids.size(), static_cast<size_t>(p.top_k)));
  const double t = static_cast<double>(p.temperature);
  const double best = static_cast<double>(x[static_cast<size_t>(ids.front())]);
  const auto weight = [&](int32_t id) {
    return std::exp((static_cast<double>(x[static_cast<size_t>(id)]) - best) / t);
  };
  if (p.top_p < 1.0F) {
    double total = 0.0;
    for (const int32_t id : ids) total += weight(id);
    double mass = 0.0;
    size_t n = 0;
    while (n < ids.size() && mass < static_cast<double>(p.top_p) * total) mass += weight(ids[n++]);
    ids.resize(std::max<size_t>(n, 1));
  }
  double score = -kInfinity;
  int32_t winner = -1;
  for (const int32_t id : ids) {
    if (weight(id) < static_cast<double>(p.min_p)) continue;
    if (x[static_cast<size_t>(id)] == -std::numeric_limits<float>::infinity()) continue;
    const auto words =
        philox({static_cast<uint32_t>(id / 4), static_cast<uint32_t>(row.position), 0, 0},
               {static_cast<uint32_t>(p.seed), static_cast<uint32_t>(p.seed >> 32)});
    const double u = (words[static_cast<size_t>(id % 4)] + 0.5) / 4294967296.0;
    const double s = static_cast<double>(x[static_cast<size_t>(id)]) / t - std::log(-std::log(u));
    if (s > score || (s == score && id < winner)) {
      score = s;
      winner = id;
    }
  }
  return winner;
}

/// Samples all rows in one call on `n_ranks` ranks with the given slice bounds; every rank must
/// agree.
std::vector<SampledToken> sample(const std::vector<RowCase>& rows, std::vector<int32_t> bounds,
                                 Isa isa, int32_t n_threads = 1) {
  const auto vocab = static_cast<int32_t>(rows.front().logits.size());
  if (bounds.empty()) bounds = {0, vocab};
  const auto n_ranks = static_cast<int32_t>(bounds.size()) - 1;
  LocalGroup group(n_ranks);
  std::vector<std::vector<SampledToken>> results(static_cast<size_t>(n_ranks));
  const auto run_rank = [&](int32_t rank) {
    const int32_t begin = bounds[static_cast<size_t>(rank)];
    const int32_t local = bounds[static_cast<size_t>(rank) + 1] - begin;
    LocalGroup::Rank communicator(group, rank);
    Stream stream(n_threads, isa);
    Sampler sampler(vocab, begin, local, static_cast<int32_t>(rows.size()));
    std::vector<Sampler::Request> requests;
    std::vector<float> logits;
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto row = static_cast<int32_t>(rows.size() - 1 - i);  // row numbers are not indices
      sampler.open(row, rows[i].params, rows[i].n_prompt);
      // History comes in two pieces.
      const std::span<const int32_t> history(rows[i].history);
      const size_t half = history.size() / 2;
      sampler.observe(row, 0, history.first(half));
      sampler.observe(row, static_cast<int32_t>(half), history.subspan(half));
      requests.push_back({row, rows[i].position});
      const auto first = rows[i].logits.begin() + begin;
      logits.insert(logits.end(), first, first + local);
    }
    sampler.sample(requests, logits.data(), communicator, stream,
                   results[static_cast<size_t>(rank)]);
  };
  std::vector<std::thread> threads;
  for (int32_t r = 1; r < n_ranks; ++r) threads.emplace_back(run_rank, r);
  run_rank(0);
  for (auto& t : threads) t.join();
  for (const auto& other : results) {
    EXPECT_EQ(other.size(), rows.size());
    for (size_t i = 0; i < other.size(); ++i) {
      EXPECT_EQ(other[i].row, static_cast<int32_t>(rows.size() - 1 - i));
      EXPECT_EQ(other[i].token, results[0][i].token);
      EXPECT_EQ(other[i].failed, results[0][i].failed);
      EXPECT_EQ(other[i].logprob, results[0][i].logprob);
    }
  }
  return results[0];
}

std::vector<float> normal_logits(size_t n, float spread, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, spread);
  std::vector<float> x(n);
  for (float& e : x) e = normal(random);
  return x;
}

/// Many rows over the whole parameter space.
std::vector<RowCase> mixed_rows(size_t vocab, int32_t n) {
  std::mt19937 random(7);
  const auto pick = [&](auto... values) {
    const std::array all = {values...};
    return all[random() % all.size()];
  };
  std::vector<RowCase> rows;
  for (int32_t i = 0; i < n; ++i) {
    RowCase row;
    SamplingParams& p = row.params;
    p.temperature = pick(0.0F, 0.3F, 0.7F, 1.0F, 1.0F, 2.0F, 100.0F);
    p.top_k = pick(0, 0, 1, 2, 40, 5000, 1 << 30);
    p.top_p = pick(1.0F, 1.0F, 0.9F, 0.5F, 0.99F, 0.01F, 0.0F);
    p.min_p = pick(0.0F, 0.0F, 0.05F, 0.5F, 1.0F);
    p.seed = (static_cast<uint64_t>(random()) << 32) | random();
    if (i % 3 == 0) {
      p.repetition_penalty = pick(1.0F, 1.3F, 0.8F);
      p.presence_penalty = pick(0.0F, 0.7F, -1.0F);
      p.frequency_penalty = pick(0.0F, 0.4F, -0.2F);
    }
    if (i % 4 == 0) p.logit_bias = {{3, 5.0F}, {17, -100.0F}};
    if (i % 5 == 0) {
      p.min_tokens = 10;
      p.stop_tokens = {2, 0, 4};
    }
    row.n_prompt = 20;
    row.position = 20 + i % 15;
    for (int32_t j = 0; j < row.position; ++j)
      row.history.push_back(static_cast<int32_t>(random() % std::min<size_t>(vocab, 50)));
    row.logits = normal_logits(vocab, pick(1.0F, 3.0F, 10.0F), static_cast<uint32_t>(random()));
    rows.push_back(row);
  }
  return rows;
}

class SamplerTest : public testing::TestWithParam<Isa> {};

TEST(Philox, KnownAnswers) {  // Random123, kat_vectors
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t f = 0xffffffff;
  EXPECT_EQ(philox({f, f, f, f}, {f, f}), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST_P(SamplerTest, AgreesWithSortingAndScoringEverything) {
  for (const size_t vocab : {size_t{50}, size_t{1003}, size_t{8192}}) {
    const auto rows = mixed_rows(vocab, 120);
    const auto got = sample(rows, {}, GetParam(), 2);
    for (size_t i = 0; i < rows.size(); ++i) {
      const SamplingParams& p = rows[i].params;
      EXPECT_FALSE(got[i].failed);
      EXPECT_EQ(got[i].token, naive_sample(rows[i]))
          << "row " << i << " of vocabulary " << vocab << ": temperature " << p.temperature << " k "
          << p.top_k << " p " << p.top_p << " min_p " << p.min_p;
    }
  }
}

TEST_P(SamplerTest, SameTokensOnAnyNumberOfRanks) {
  const auto rows = mixed_rows(1003, 60);
  const auto one = sample(rows, {}, GetParam());
  for (const std::vector<int32_t>& bounds :
       {std::vector<int32_t>{0, 512, 1003}, {0, 333, 666, 1003}, {0, 1, 1002, 1003}}) {
    const auto many = sample(rows, bounds, GetParam());
    for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(many[i].token, one[i].token) << i;
  }
}

TEST_P(SamplerTest, NeitherNeighboursNorRowNumbersMatter) {
  const auto rows = mixed_rows(1003, 40);
  const auto together = sample(rows, {}, GetParam());
  for (size_t i = 0; i < rows.size(); ++i)
    EXPECT_EQ(sample({rows[i]}, {}, GetParam())[0].token, together[i].token) << i;
}

/// Pearson's statistic of `n` samples against probabilities; each sample has its own position.
double chi_square(const RowCase& row, const std::vector<double>& probability, int32_t n, Isa isa) {
  std::vector<RowCase> rows(static_cast<size_t>(n), row);
  for (int32_t i = 0; i < n; ++i) rows[static_cast<size_t>(i)].position = i;
  std::vector<double> hits(probability.size(), 0.0);
  for (const SampledToken& t : sample(rows, {}, isa)) hits[static_cast<size_t>(t.token)] += 1.0;
  double statistic = 0.0;
  for (size_t i = 0; i < hits.size(); ++i) {
    const double expected = probability[i] * n;
    if (expected == 0.0) {
      EXPECT_EQ(hits[i], 0.0) << i;
      continue;
    }
    statistic += (hits[i] - expected) * (hits[i] - expected) / expected;
  }
  return statistic;
}

std::vector<double> softmax(const std::vector<float>& x, double temperature) {
  std::vector<double> p;
  for (const float e : x) p.push_back(std::exp(static_cast<double>(e) / temperature));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& e : p) e /= sum;
  return p;
}

TEST_P(SamplerTest, DistributionIsSoftmax) {
  RowCase row;
  row.logits = normal_logits(20, 1.0F, 3);
  row.params.temperature = 0.8F;
  row.params.seed = 42;
  // 19 degrees of freedom: 43.8 is the 99.9 % point.
  EXPECT_LT(chi_square(row, softmax(row.logits, 0.8), 20000, GetParam()), 43.8);
}

TEST_P(SamplerTest, TruncatedDistributionIsRenormalised) {
  RowCase row;
  row.logits = normal_logits(20, 1.0F, 3);
  row.params.top_k = 5;
  row.params.seed = 43;
  auto p = softmax(row.logits, 1.0);
  auto sorted = p;
  std::sort(sorted.rbegin(), sorted.rend());
  for (double& e : p) e = e < sorted[4] ? 0.0 : e;
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& e : p) e /= sum;
  // 4 degrees of freedom: 18.5 is the 99.9 % point.
  EXPECT_LT(chi_square(row, p, 20000, GetParam()), 18.5);
}

TEST_P(SamplerTest, TiesGoToTheLowerId) {
  RowCase greedy;
  greedy.logits = {1.0F, 3.0F, 2.0F, 3.0F, 3.0F, 0.0F};
  greedy.params.temperature = 0.0F;
  RowCase top_2 = greedy;  // of three equals, the two lower ids
  top_2.params.temperature = 1.0F;
  top_2.params.top_k = 2;
  RowCase nucleus = greedy;  // p = 0.4: two of the three equals
  nucleus.params.temperature = 1.0F;
  nucleus.params.top_p = 0.4F;
  for (const std::vector<int32_t>& bounds : {std::vector<int32_t>{0, 6}, {0, 3, 6}, {0, 1, 6}}) {
    EXPECT_EQ(sample({greedy}, bounds, GetParam())[0].token, 1);
    for (int32_t position = 0; position < 200; ++position) {
      top_2.position = nucleus.position = position;
      for (const auto& t : sample({top_2, nucleus}, bounds, GetParam()))
        EXPECT_TRUE(t.token == 1 || t.token == 3) << t.token;
      if (bounds.size() > 2 && position > 20) break;
    }
  }
}

TEST_P(SamplerTest, Logprobs) {
  RowCase row;
  row.logits = normal_logits(1003, 2.0F, 5);
  row.params.temperature = 0.5F;
  row.params.n_logprobs = 5;
  row.params.logit_bias = {{100, 50.0F}};  // chosen for sure; logprobs are of the unmodified row
  RowCase without = row;
  without.params.n_logprobs = -1;
  RowCase only_own = row;
  only_own.params.n_logprobs = 0;
  RowCase whole = row;
  whole.params.n_logprobs = 5000;
  for (const std::vector<int32_t>& bounds : {std::vector<int32_t>{0, 1003}, {0, 400, 1003}}) {
    const auto got = sample({row, without, only_own, whole}, bounds, GetParam());
    const auto p = softmax(row.logits, 1.0);
    for (const auto& t : got) EXPECT_EQ(t.token, 100);
    EXPECT_NEAR(static_cast<double>(got[0].logprob), std::log(p[100]), 1e-5);
    EXPECT_EQ(got[2].logprob, got[0].logprob);
    EXPECT_TRUE(got[1].top.empty());
    EXPECT_TRUE(got[2].top.empty());
    ASSERT_EQ(got[0].top.size(), 5U);
    ASSERT_EQ(got[3].top.size(), 1003U);
    std::vector<int32_t> ids(1003);
    std::iota(ids.begin(), ids.end(), 0);
    std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
      return row.logits[static_cast<size_t>(a)] > row.logits[static_cast<size_t>(b)];
    });
    for (size_t i = 0; i < 1003; ++i) {
      EXPECT_EQ(got[3].top[i].token, ids[i]);
      EXPECT_NEAR(static_cast<double>(got[3].top[i].logprob),
                  std::log(p[static_cast<size_t>(ids[i])]), 1e-5);
      if (i < 5) {
        EXPECT_EQ(got[0].top[i].token, ids[i]);
      }
    }
  }
}

TEST_P(SamplerTest, LogitsThatAreNotFiniteFailTheirRowOnly) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  auto rows = mixed_rows(103, 24);
  const auto clean = sample(rows, {}, GetParam());
  rows[3].logits[0] = nan;
  rows[4].logits[102] = infinity;
  rows[9].logits[50] = -infinity;
  rows[10].logits.assign(103, nan);
  rows[10].params = {};
  for (const std::vector<int32_t>& bounds : {std::vector<int32_t>{0, 103}, {0, 51, 103}}) {
    const auto got = sample(rows, bounds, GetParam());
    for (size_t i = 0; i < rows.size(); ++i) {
      const bool bad = i == 3 || i == 4 || i == 9 || i == 10;
      EXPECT_EQ(got[i].failed, bad) << i;
      if (!bad) {
        EXPECT_EQ(got[i].token, clean[i].token) << i;
      }
    }
  }
}

TEST_P(SamplerTest, NothingLeftToChooseFailsTheRow) {
  RowCase row;
  row.logits = {1.0F, 2.0F};
  row.params.min_tokens = 1;
  row.params.stop_tokens = {0, 1};
  RowCase greedy = row;
  greedy.params.temperature = 0.0F;
  RowCase truncated = row;
  truncated.params.top_p = 0.5F;
  for (const auto& t : sample({row, greedy, truncated}, {}, GetParam())) EXPECT_TRUE(t.failed);
}

TEST_P(SamplerTest, TinyTemperatureIsNearlyGreedy) {
  RowCase row;
  row.logits = normal_logits(5000, 3.0F, 9);
  row.params.temperature = 1e-6F;
  const auto best = std::max_element(row.logits.begin(), row.logits.end()) - row.logits.begin();
  RowCase truncated = row;
  truncated.params.top_p = 0.9F;
  for (const auto& t : sample({row, truncated}, {}, GetParam())) EXPECT_EQ(t.token, best);
}

TEST_P(SamplerTest, TokensOutsideTheVocabularyAreIgnored) {
  RowCase row;
  row.logits = {1.0F, 2.0F, 3.0F};
  row.params.temperature = 0.0F;
  row.params.logit_bias = {{-1, 9.0F}, {3, 9.0F}, {std::numeric_limits<int32_t>::max(), 9.0F}};
  row.params.min_tokens = 5;
  row.params.stop_tokens = {-7, 1000, std::numeric_limits<int32_t>::min()};
  EXPECT_EQ(sample({row}, {}, GetParam())[0].token, 2);
}

TEST(Sampler, ClosedRowsForget) {
  LocalGroup group(1);
  LocalGroup::Rank communicator(group, 0);
  Stream stream(1);
  Sampler sampler(3, 0, 3, 1);
  SamplingParams params;
  params.temperature = 0.0F;
  params.frequency_penalty = 10.0F;
  std::vector<SampledToken> out;
  const auto once = [&] {
    std::vector<float> logits = {1.0F, 2.0F, 3.0F};
    const std::array<Sampler::Request, 1> requests = {Sampler::Request{0, 5}};
    out.clear();
    sampler.sample(requests, logits.data(), communicator, stream, out);
    return out[0].token;
  };
  sampler.open(0, params, 1);
  EXPECT_EQ(once(), 2);
  sampler.observe(0, 1, std::array<int32_t, 1>{2});
  EXPECT_EQ(once(), 1);
  sampler.close(0);
  sampler.open(0, params, 1);
  EXPECT_EQ(once(), 2);
  sampler.observe(0, 0, std::array<int32_t, 1>{2});  // a prompt token: frequency does not count it
  EXPECT_EQ(once(), 2);
}

TEST(Sampler, NoRequestsNoCollective) {
  LocalGroup group(2);  // would wait for the other rank for ever
  LocalGroup::Rank communicator(group, 0);
  Stream stream(1);
  Sampler sampler(3, 0, 2, 1);
  std::vector<SampledToken> out;
  sampler.sample({}, nullptr, communicator, stream, out);
  EXPECT_TRUE(out.empty());
}

INSTANTIATE_TEST_SUITE_P(Isa, SamplerTest, testing::ValuesIn(testing_support::runnable_isas()),
                         testing_support::isa_name);

}  // namespace
}  // namespace troupe
