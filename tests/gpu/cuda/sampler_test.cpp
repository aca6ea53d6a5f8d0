#include "gpu/cuda/sampler.h"

#include "gpu/cuda/step_state.h"
#include "gpu/device/stream.h"
#include "gpu/sampler.h"
#include "nccl/communicators.h"
#include "tests/support/cuda_device.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

// The sampler on the device against the CPU's: the same logits must give the same tokens.
namespace troupe {
namespace {

struct RowCase {
  SamplingParams params;
  int32_t n_prompt = 0;
  std::vector<int32_t> history;  // prompt, then output
  std::vector<float> logits;
};

class CudaSampler : public test::CudaTest {
 protected:
  std::vector<float> logits(int32_t vocab, float scale, float grid = 0.0F) {
    std::normal_distribution<float> normal(0.0F, scale);
    std::vector<float> out(static_cast<size_t>(vocab));
    for (float& v : out) {
      v = normal(random_);
      if (grid > 0.0F) v = std::round(v / grid) * grid;  // many equal values
    }
    return out;
  }

  static std::vector<SampledToken> on_cpu(const std::vector<RowCase>& rows, int32_t vocab) {
    const auto n = static_cast<int32_t>(rows.size());
    Sampler sampler(vocab, 0, vocab, n);
    const auto communicator = make_single_communicator();
    Stream stream(1);
    std::vector<Sampler::Request> requests;
    std::vector<float> all;
    for (int32_t i = 0; i < n; ++i) {
      const RowCase& r = rows[static_cast<size_t>(i)];
      sampler.open(i, r.params, r.n_prompt);
      sampler.observe(i, 0, r.history);
      requests.push_back({i, static_cast<int32_t>(r.history.size())});
      all.insert(all.end(), r.logits.begin(), r.logits.end());
    }
    std::vector<SampledToken> out;
    sampler.sample(requests, all.data(), *communicator, stream, out);
    return out;
  }

  static std::vector<SampledToken> on_gpu(const std::vector<RowCase>& rows, int32_t vocab) {
    const auto n = static_cast<int32_t>(rows.size());
    cuda::StepState state({n, 64, 512, vocab});
    cuda::Sampler sampler(n, vocab);
    std::vector<float> all;
    cudaStream_t stream = nullptr;
    TROUPE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    TROUPE_CUDA(cudaDeviceSynchronize());
    for (int32_t i = 0; i < n; ++i) {
      const RowCase& r = rows[static_cast<size_t>(i)];
      const std::vector<int32_t> slots(r.history.size(), 0);
      state.open_row(0, i, r.params, r.n_prompt, slots, r.history, stream);
      state.samples(0)[static_cast<size_t>(i)] = {i, static_cast<int32_t>(r.history.size()), 0, 0};
      all.insert(all.end(), r.logits.begin(), r.logits.end());
    }
    auto device_logits = test::upload(all);
    state.begin_step(0, 0, n, stream);
    sampler.run(device_logits.data(), n, state.device(), stream);
    TROUPE_CUDA(cudaStreamSynchronize(stream));
    TROUPE_CUDA(cudaStreamDestroy(stream));
    EXPECT_EQ(state.device().outcomes[0].sequence, 1U);
    std::vector<SampledToken> out;
    const auto last = test::download(state.device().last_token, rows.size());
    for (int32_t i = 0; i < n; ++i) {
      const cuda::SampleOutcome& o = state.device().sample_outcomes[i];
      SampledToken t;
      t.row = i;
      t.token = o.token;
      t.failed = o.failed != 0;
      t.logprob = o.logprob;
      const TokenLogprob* top = state.device().top + i * cuda::kMaxTopLogprobs;
      t.top.assign(top, top + o.n_top);
      EXPECT_EQ(last[static_cast<size_t>(i)], o.token);
      out.push_back(t);
    }
    return out;
  }

  static void expect_same(const std::vector<RowCase>& rows, int32_t vocab) {
    const auto want = on_cpu(rows, vocab);
    const auto got = on_gpu(rows, vocab);
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      const SamplingParams& p = rows[i].params;
      SCOPED_TRACE(::testing::Message() << "row " << i << " T " << p.temperature << " k " << p.top_k
                                        << " p " << p.top_p << " min " << p.min_p);
      EXPECT_EQ(got[i].token, want[i].token);
      EXPECT_EQ(got[i].failed, want[i].failed);
      EXPECT_NEAR(got[i].logprob, want[i].logprob, 1e-3);
      ASSERT_EQ(got[i].top.size(), want[i].top.size());
      for (size_t k = 0; k < want[i].top.size(); ++k) {
        EXPECT_EQ(got[i].top[k].token, want[i].top[k].token) << k;
        EXPECT_NEAR(got[i].top[k].logprob, want[i].top[k].logprob, 1e-3) << k;
      }
    }
  }

  RowCase row(std::vector<float> values, float temperature, int32_t n_history = 5) {
    RowCase r;
    r.logits = std::move(values);
    r.params.temperature = temperature;
    r.params.seed = random_();
    r.params.seed = r.params.seed << 32 | random_();
    r.history.reserve(static_cast<size_t>(n_history));
    for (int32_t i = 0; i < n_history; ++i)
      r.history.push_back(static_cast<int32_t>(random_() % r.logits.size()));
    r.n_prompt = n_history / 2;
    return r;
  }

  std::mt19937 random_{7};
};

constexpr int32_t kVocabularies[] = {37, 1000, 1003, 32000, 128256};

TEST_F(CudaSampler, GreedyAndNoiseMatchCpu) {
  for (const int32_t vocab : kVocabularies) {
    std::vector<RowCase> rows;
    for (const float t : {0.0F, 0.05F, 0.7F, 1.0F, 2.0F})
      for (const float scale : {0.1F, 3.0F, 10.0F}) {
        rows.push_back(row(logits(vocab, scale), t));
        rows.push_back(row(logits(vocab, scale, 0.5F), t, 200));
      }
    expect_same(rows, vocab);
  }
}

TEST_F(CudaSampler, ManyPositionsMatchCpu) {
  const auto values = logits(5000, 2.0F);
  std::vector<RowCase> rows;
  for (int32_t i = 0; i < 400; ++i) rows.push_back(row(values, 1.0F, i));
  expect_same(rows, 5000);
}

TEST_F(CudaSampler, TruncationMatchesCpu) {
  for (const int32_t vocab : kVocabularies) {
    std::vector<RowCase> rows;
    for (const float grid : {0.0F, 0.5F})
      for (const float scale : {0.5F, 3.0F}) {
        const auto add = [&](int32_t k, float p, float least) {
          rows.push_back(row(logits(vocab, scale, grid), 0.8F));
          rows.back().params.top_k = k;
          rows.back().params.top_p = p;
          rows.back().params.min_p = least;
        };
        for (const int32_t k : {1, 2, 17, 36, 400}) add(k, 1.0F, 0.0F);
        for (const float p : {1e-6F, 0.1F, 0.5F, 0.9F, 0.999F}) add(0, p, 0.0F);
        for (const float least : {0.01F, 0.3F, 1.0F}) add(0, 1.0F, least);
        add(50, 0.9F, 0.0F);
        add(50, 0.9F, 0.05F);
        add(3, 0.3F, 0.5F);
      }
    expect_same(rows, vocab);
  }
}

TEST_F(CudaSampler, PenaltiesBiasAndMasksMatchCpu) {
  for (const int32_t vocab : {1003, 32000}) {
    std::vector<RowCase> rows;
    for (const float t : {0.0F, 0.9F})
      for (int32_t kind = 0; kind < 6; ++kind) {
        rows.push_back(row(logits(vocab, 2.0F), t, 60));
        RowCase& r = rows.back();
        SamplingParams& p = r.params;
        if (kind == 0) p.repetition_penalty = 1.3F;
        if (kind == 1) p.presence_penalty = 1.5F;
        if (kind == 2) p.frequency_penalty = 0.7F;
        if (kind >= 3) {
          p.repetition_penalty = 1.1F;
          p.frequency_penalty = -0.5F;
          p.logit_bias = {{3, 5.0F}, {9, -100.0F}, {vocab - 1, 100.0F}};
        }
        if (kind >= 4) {
          p.min_tokens = 1000;
          p.stop_tokens = {vocab - 1, 0};
        }
        if (kind == 5) {
          p.top_p = 0.9F;
          p.n_logprobs = 3;
        }
        for (int32_t i = 0; i < 20; ++i) r.history[static_cast<size_t>(i) * 3] = i;  // repeats
      }
    expect_same(rows, vocab);
  }
}

TEST_F(CudaSampler, LogprobsMatchCpu) {
  for (const int32_t vocab : {37, 1003, 128256}) {
    std::vector<RowCase> rows;
    for (const int32_t n : {0, 1, 5, 20})
      for (const float t : {0.0F, 1.0F})
        for (const float grid : {0.0F, 0.5F}) {
          rows.push_back(row(logits(vocab, 3.0F, grid), t));
          rows.back().params.n_logprobs = n;
        }
    expect_same(rows, vocab);
  }
}

TEST_F(CudaSampler, LogitsThatAreNoNumbersFailTheRowAlone) {
  for (const int32_t vocab : {37, 32000}) {
    std::vector<RowCase> rows;
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
          -std::numeric_limits<float>::infinity()})
      for (int32_t kind = 0; kind < 3; ++kind) {
        rows.push_back(row(logits(vocab, 1.0F), kind == 0 ? 0.0F : 1.0F));
        rows.back().logits[static_cast<size_t>(vocab) - 3] = bad;
        if (kind == 2) rows.back().params.top_p = 0.5F;
        rows.push_back(row(logits(vocab, 1.0F), 1.0F));
      }
    expect_same(rows, vocab);
  }
}

TEST_F(CudaSampler, EverythingMaskedFails) {
  RowCase r = row(logits(37, 1.0F), 1.0F);
  r.params.min_tokens = 100;
  for (int32_t i = 0; i < 37; ++i) r.params.stop_tokens.push_back(i);
  std::vector<RowCase> rows = {r, r, r};
  rows[1].params.temperature = 0.0F;
  rows[2].params.top_k = 5;
  expect_same(rows, 37);
}

}  // namespace
}  // namespace troupe
