#include "launch/placement.h"

#include <algorithm>
#include <string>

namespace troupe {
namespace {

Error refuse(const char* option, std::string message) {
  return fail(ErrorCode::kInvalidArgument, std::move(message), option);
}

template <class T>
void set_default(T& value, T automatic) {
  if (value == 0) value = automatic;
}

// CPU ranks share their cores with the gateway and the network threads.
constexpr int32_t kCpuPlanAhead = 25;  // ms
// A GPU computes a prompt of thousands of tokens in a step that streams would feel.
constexpr double kGpuSlowdown = 1.25;

Status place_on_cpu(ServeCommand& command) {
  RankShape& shape = command.shape;
  if (shape.kv == "bf16" || shape.kv == "fp8") {
    return refuse("--kv", "--kv " + shape.kv + " needs a GPU; on the CPU use f16 or f32");
  }
  if (shape.weights != "auto") {
    return refuse("--weights", "--weights needs a GPU; the CPU keeps the weights as in the file");
  }
  if (shape.dummy_weights) return refuse("--dummy-weights", "--dummy-weights needs a GPU");
  shape.device = "cpu";
  if (shape.kv == "auto") shape.kv = "f16";
  set_default(command.tp, 2);
  set_default(shape.kv_tokens, 8192);
  set_default(shape.max_rows, 64);
  set_default(shape.max_step_tokens, std::max(512, shape.max_rows));
  set_default(command.decode_slowdown, kNoSlowdownLimit);
  if (command.plan_ahead < 0) command.plan_ahead = kCpuPlanAhead;
  return ok_status();
}

Status place_on_gpus(ServeCommand& command, int32_t gpus) {
  RankShape& shape = command.shape;
  if (shape.kv == "f16" || shape.kv == "f32") {
    return refuse("--kv", "--kv " + shape.kv + " is for the CPU; on a GPU use bf16 or fp8");
  }
  if (shape.exact) return refuse("--exact", "--exact is for the CPU; use --device cpu");
  shape.device = "cuda";
  if (shape.kv == "auto") shape.kv = "bf16";
  if (command.in_process && command.tp > 1) {
    return refuse("--in-process",
                  "--in-process has one rank a replica on GPUs: leave --tp or it out");
  }
  set_default(command.tp, command.in_process ? 1 : std::max(1, gpus / command.dp));
  set_default(shape.max_rows, 256);
  set_default(shape.max_step_tokens, std::max(2048, shape.max_rows));
  set_default(command.decode_slowdown, kGpuSlowdown);
  command.plan_ahead = std::max(0, command.plan_ahead);
  if (command.hostfile.empty() && command.tp * command.dp > gpus) {
    return refuse("--tp", std::to_string(command.tp * command.dp) +
                              " ranks (--tp x --dp) need as " + "many GPUs, this host has " +
                              std::to_string(gpus));
  }
  return ok_status();
}

Status place_on_model(ServeCommand& command) {
  RankShape& shape = command.shape;
  if (shape.kv == "f16" || shape.kv == "f32") {
    return refuse("--kv",
                  "--kv " + shape.kv + " is for the CPU; modelled devices have bf16 or fp8");
  }
  if (shape.exact || shape.dummy_weights) {
    return refuse("--device", "--exact and --dummy-weights mean nothing to a modelled device");
  }
  if (shape.kv == "auto") shape.kv = "bf16";
  if (shape.weights == "auto") shape.weights = "bf16";
  set_default(command.tp, 1);
  set_default(shape.max_rows, 256);
  set_default(shape.max_step_tokens, std::max(2048, shape.max_rows));
  set_default(command.decode_slowdown, kGpuSlowdown);
  command.plan_ahead = std::max(0, command.plan_ahead);
  return ok_status();
}

}  // namespace

Result<ServeCommand> place(const ServeCommand& command, int32_t gpus,
                           const std::string& gpu_problem) {
  ServeCommand placed = command;
  const std::string& device = command.shape.device;
  if (device == "cuda" && gpus == 0 && command.hostfile.empty()) {
    return refuse("--device", gpu_problem.empty()
                                  ? "no GPU that this program can use; see `troupe doctor`, or use "
                                    "--device cpu"
                                  : gpu_problem);
  }
  const bool on_gpus = device == "cuda" || (device == "auto" && gpus > 0);
  const bool modelled = device.starts_with(kSimPrefix);
  if (!modelled && !placed.shape.sim_model.empty()) {
    return refuse("--sim-model", "--sim-model needs a modelled device, as in --device sim:h200");
  }
  if (const Status status = modelled  ? place_on_model(placed)
                            : on_gpus ? place_on_gpus(placed, gpus)
                                      : place_on_cpu(placed);
      !status) {
    return status.error();
  }
  const RankShape& shape = placed.shape;
  if (shape.max_step_tokens < shape.max_rows) {
    return refuse("--max-step-tokens",
                  "--max-step-tokens (" + std::to_string(shape.max_step_tokens) +
                      ") must be at least --max-rows (" + std::to_string(shape.max_rows) +
                      "): every running request takes one token of a step");
  }
  return placed;
}

}  // namespace troupe
