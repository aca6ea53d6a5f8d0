// One rank by hand, without actors or HTTP: load a model, write step plans, run them.
//   executor MODEL
#include "gpu/executor.h"
#include "actors/text/incremental_decoder.h"
#include "actors/text/tokenizer.h"
#include "gpu/model/checkpoint.h"
#include "nccl/communicators.h"

#include <cstdio>
#include <numeric>
#include <string>

using namespace troupe;

namespace {

int fail_with(const Error& error) {
  std::fprintf(stderr, "%s\n", error.message.c_str());
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return fail_with({ErrorCode::kInvalidArgument, "usage: executor MODEL", {}});
  auto checkpoint = Checkpoint::open(argv[1]);
  if (!checkpoint) return fail_with(checkpoint.error());
  auto tokenizer = Tokenizer::load(**checkpoint);
  if (!tokenizer) return fail_with(tokenizer.error());

  ExecutorOptions options;
  options.n_threads = 2;
  options.n_slots = 256;
  const auto communicator = make_single_communicator();  // alone: nothing to reduce
  auto executor = Executor::create(**checkpoint, options, *communicator);
  if (!executor) return fail_with(executor.error());

  const std::string prompt = "The capital of France is";
  const auto tokens = (*tokenizer)->encode(prompt, {});

  // The first step opens row 0 and computes the whole prompt. Who owns which slot is up to the
  // plans: here position i simply lives in slot i.
  StepPlan plan;
  plan.epoch = 1;
  plan.step = 1;
  OpenRow open;
  open.n_prompt = static_cast<int32_t>(tokens.size());
  open.sampling.temperature = 0;
  plan.opened = {open};
  plan.work = {{.row = 0, .n_tokens = open.n_prompt, .sample = true}};
  plan.tokens = tokens;
  plan.slots.resize(tokens.size());
  std::iota(plan.slots.begin(), plan.slots.end(), 0);
  int32_t next_slot = open.n_prompt;

  std::printf("%s", prompt.c_str());
  IncrementalDecoder decoder(**tokenizer, true);
  for (int i = 0; i < 12; ++i) {
    const StepResult result = (*executor)->run(plan);
    std::printf("%s", decoder.push(result.sampled.at(0).token).c_str());
    std::fflush(stdout);
    // Every later step: one token, the one that the rank sampled itself.
    plan = {.epoch = 1, .step = plan.step + 1};
    plan.work = {{.row = 0, .n_tokens = 1, .from_last_sample = true, .sample = true}};
    plan.slots = {next_slot++};
  }
  std::printf("%s\n", decoder.flush().c_str());
  const Executor::Memory memory = (*executor)->memory();
  std::printf("weights %lld, KV pool %lld, workspace %lld bytes\n",
              static_cast<long long>(memory.weights), static_cast<long long>(memory.kv),
              static_cast<long long>(memory.workspace));
  return 0;
}
