// What the GPU rank makes of a model, for comparison with other programs:
//
//   cuda_logits MODEL TOKENS OUT [--fp8 | --stored] [--fp8-kv] [--tune] [--steps N]
//
// TOKENS has one sequence of token ids a line. OUT.logits gets the logits of every position of
// every sequence, fp32 [positions][vocabulary] one after the other; OUT.greedy one line of N greedy
// tokens a sequence (default 64), all sequences in one batch.
#include "gpu/cuda/device.h"
#include "gpu/cuda/executor.h"
#include "gpu/cuda/llama.h"
#include "nccl/communicators.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace troupe {
namespace {

using Sequences = std::vector<std::vector<int32_t>>;

Sequences read_tokens(const std::string& path) {
  Sequences out;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::vector<int32_t> tokens;
    for (int32_t t = 0; words >> t;) tokens.push_back(t);
    if (!tokens.empty()) out.push_back(tokens);
  }
  return out;
}

template <class T>
cuda::DeviceBuffer<T> upload(const std::vector<T>& host) {
  cuda::DeviceBuffer<T> out(host.size());
  TROUPE_CUDA(cudaMemcpy(out.data(), host.data(), out.bytes(), cudaMemcpyHostToDevice));
  return out;
}

template <class T>
T value_of(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  return std::move(result).value();
}

/// Each sequence as one chunk, all its tokens sampled.
void write_logits(const Checkpoint& checkpoint, const Sequences& sequences,
                  const ExecutorOptions& options, const std::string& path) {
  const ModelConfig& config = checkpoint.config();
  size_t longest = 1;
  for (const auto& s : sequences) longest = std::max(longest, s.size());
  const auto n_max = static_cast<int32_t>(longest);
  const Shard shard = make_shard(config, 32, 0, 1);
  const auto format = options.stored_weights ? value_of(cuda::stored_format(checkpoint))
                      : options.fp8_weights  ? cuda::WeightFormat::kFp8
                                             : cuda::WeightFormat::kBf16;
  const auto kv_format = options.fp8_kv ? cuda::KvFormat::kFp8 : cuda::KvFormat::kBf16;
  const auto communicator = make_single_communicator();
  cuda::Llama model(config, shard, value_of(cuda::Weights::load(checkpoint, shard, true, format)),
                    kv_format, {n_max, n_max, 1, n_max, false}, *communicator);
  const cuda::KvPool pool(config.n_layers, n_max, cuda::Llama::attention_shape(config, shard),
                          kv_format);
  std::vector<int32_t> count(longest);
  std::iota(count.begin(), count.end(), 0);
  const auto positions = upload(count);
  const std::vector<int32_t> backwards(count.rbegin(), count.rend());
  const auto slots = upload(backwards);
  std::ofstream out(path, std::ios::binary);
  std::vector<float> logits;
  for (const auto& s : sequences) {
    const auto n = static_cast<int32_t>(s.size());
    const auto tokens = upload(s);
    const cuda::Chunk chunk = {0, 0, n, n};
    cuda::StepInput input;
    input.n_tokens = n;
    input.tokens = tokens.data();
    input.positions = positions.data();
    input.slots = slots.data();
    input.decode.slots = {slots.data(), n_max};
    input.chunks = {&chunk, 1};
    input.n_sampled = n;
    model.forward(input, pool, nullptr);
    TROUPE_CUDA(cudaDeviceSynchronize());
    logits.resize(s.size() * static_cast<size_t>(config.vocab));
    TROUPE_CUDA(cudaMemcpy(logits.data(), model.logits(), logits.size() * sizeof(float),
                           cudaMemcpyDeviceToHost));
    out.write(reinterpret_cast<const char*>(logits.data()),
              static_cast<std::streamsize>(logits.size() * sizeof(float)));
  }
}

void write_greedy(const Checkpoint& checkpoint, const Sequences& sequences,
                  const ExecutorOptions& options, bool tune, int32_t steps,
                  const std::string& path) {
  const auto communicator = make_single_communicator();
  cuda::Variant variant;
  variant.tune = tune;
  const auto executor = value_of(cuda::make_executor(checkpoint, options, *communicator, variant));
  Sequences produced(sequences.size());
  int32_t next_slot = options.n_slots;
  uint64_t step = 0;
  const auto run = [&](StepPlan& plan) {
    plan.step = ++step;
    for (size_t i = 0; i < plan.slots.size(); ++i) plan.slots[i] = --next_slot;
    for (const SampledToken& t : executor->run(plan).sampled)
      produced[static_cast<size_t>(t.row)].push_back(t.failed ? -1 : t.token);
  };
  SamplingParams greedy;
  greedy.temperature = 0.0F;
  for (size_t row = 0; row < sequences.size(); ++row) {
    const auto& s = sequences[row];
    StepPlan plan;
    const auto n = static_cast<int32_t>(s.size());
    plan.opened.push_back({static_cast<int32_t>(row), n, greedy, {}, {}});
    plan.work.push_back({static_cast<int32_t>(row), n, false, true});
    plan.tokens = s;
    plan.slots.resize(s.size());
    run(plan);
  }
  for (int32_t i = 1; i < steps; ++i) {
    StepPlan plan;
    for (size_t row = 0; row < sequences.size(); ++row)
      plan.work.push_back({static_cast<int32_t>(row), 1, true, true});
    plan.slots.resize(sequences.size());
    run(plan);
  }
  std::ofstream out(path);
  for (const auto& tokens : produced) {
    for (const int32_t t : tokens) out << t << ' ';
    out << '\n';
  }
}

int run(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(
        stderr,
        "usage: cuda_logits MODEL TOKENS OUT [--fp8 | --stored] [--fp8-kv] [--tune] [--steps N]\n");
    return 2;
  }
  ExecutorOptions options;
  options.device = DeviceKind::kCuda;
  bool tune = false;  // takes half a minute
  int32_t steps = 64;
  for (int i = 4; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--fp8") options.fp8_weights = true;
    if (arg == "--tune") tune = true;
    if (arg == "--stored") options.stored_weights = true;
    if (arg == "--fp8-kv") options.fp8_kv = true;
    if (arg == "--steps" && i + 1 < argc) steps = std::atoi(argv[++i]);
  }
  const auto checkpoint = value_of(Checkpoint::open(argv[1]));
  const Sequences sequences = read_tokens(argv[2]);
  int32_t all = 0;
  int32_t longest = 1;
  for (const auto& s : sequences) {
    all += static_cast<int32_t>(s.size()) + steps;
    longest = std::max(longest, static_cast<int32_t>(s.size()));
  }
  options.n_slots = all;
  options.max_rows = static_cast<int32_t>(sequences.size());
  options.max_step_tokens = longest;
  const std::string out = argv[3];
  write_logits(*checkpoint, sequences, options, out + ".logits");
  write_greedy(*checkpoint, sequences, options, tune, steps, out + ".greedy");
  return 0;
}

}  // namespace
}  // namespace troupe

int main(int argc, char** argv) {
  try {
    return troupe::run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
