#pragma once

#include "gpu/communicator.h"
#include "gpu/device/stream.h"
#include "gpu/model/llama.h"
#include "tests/support/run_ranks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace troupe::test {

/// How a sequence is put through the model.
struct LogitsOptions {
  WeightMode mode = WeightMode::kExact;
  DType kv = DType::kF32;
  int32_t ranks = 1;
  int32_t chunk = 1 << 20;  // tokens of one forward pass
  int32_t slot_stride = 1;  // position i lives in slot (i * stride + 3) % slots; stride is odd
};

/// Teacher-forced logits of all positions of all sequences, [sequence][position * vocab]. The
/// model is called directly, without an executor; every sequence has the pool to itself.
inline std::vector<std::vector<float>> model_logits(
    const Checkpoint& checkpoint, const std::vector<std::vector<int32_t>>& sequences,
    const LogitsOptions& options) {
  const ModelConfig& config = checkpoint.config();
  const auto vocab = static_cast<size_t>(config.vocab);
  std::vector<std::vector<float>> out;
  size_t longest = 1;
  for (const auto& s : sequences) {
    out.emplace_back(s.size() * vocab);
    longest = std::max(longest, s.size());
  }
  const auto most =
      static_cast<int32_t>(std::min<size_t>(longest, static_cast<size_t>(options.chunk)));
  int32_t n_slots = 4;
  while (n_slots < static_cast<int32_t>(longest)) n_slots *= 2;

  run_ranks(options.ranks, [&](Communicator& communicator) {
    Stream stream(1);
    const Shard shard = make_shard(config, 32, communicator.rank(), communicator.size());
    auto model =
        Llama::load(checkpoint, shard, communicator.rank() == 0, options.mode, most, stream);
    ASSERT_TRUE(model.ok()) << model.error().message;
    const KvPool pool(config.n_layers, n_slots, static_cast<int32_t>(shard.kv_heads.size()),
                      config.head_dim, options.kv);
    const auto width = static_cast<size_t>(shard.vocab.size());
    std::vector<float> logits(static_cast<size_t>(most) * width);
    for (size_t s = 0; s < sequences.size(); ++s) {
      const auto length = static_cast<int32_t>(sequences[s].size());
      std::vector<int32_t> positions(sequences[s].size());
      std::iota(positions.begin(), positions.end(), 0);
      std::vector<int32_t> slots;
      for (const int32_t p : positions) slots.push_back((p * options.slot_stride + 3) % n_slots);
      for (int32_t begin = 0; begin < length; begin += most) {
        const int32_t n = std::min(most, length - begin);
        const auto part = [&](const std::vector<int32_t>& v) {
          return std::span(v).subspan(static_cast<size_t>(begin), static_cast<size_t>(n));
        };
        const AttentionRow row = {0, n, begin + n, slots.data()};
        std::vector<int32_t> all(static_cast<size_t>(n));
        std::iota(all.begin(), all.end(), 0);
        (*model)->forward({part(sequences[s]), part(positions), part(slots), {&row, 1}, all}, pool,
                          communicator, stream, logits.data());
        for (size_t i = 0; i < static_cast<size_t>(n); ++i)
          std::copy_n(logits.begin() + static_cast<std::ptrdiff_t>(i * width), width,
                      out[s].begin() +
                          static_cast<std::ptrdiff_t>((static_cast<size_t>(begin) + i) * vocab +
                                                      static_cast<size_t>(shard.vocab.begin)));
      }
    }
  });
  return out;
}

}  // namespace troupe::test
