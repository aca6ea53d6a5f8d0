#include "actors/log_file.h"
#include "actors/sim/simulation.h"
#include "gpu/model/mapped_file.h"
#include "gpu/sim/coefficients.h"
#include "gpu/sim/cost_model.h"
#include "gpu/sim/fit.h"
#include "gpu/sim/model_shapes.h"
#include "launch/commands.h"
#include "launch/simulate_options.h"
#include "launch/simulate_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <span>
#include <sstream>

namespace troupe {
namespace {

constexpr int64_t kMaxTableBytes = 64 << 20;
constexpr int64_t kRecordLimit = int64_t{1} << 40;

int failed(const Error& error) {
  std::fprintf(stderr, "error: %s\n", error.message.c_str());
  return kExitStart;
}

/// What a step table can tell apart: the terms that its steps have.
std::vector<std::string> default_terms(const std::vector<MeasuredStep>& steps,
                                       const std::vector<MeasuredOp>& ops) {
  bool bf16 = false, fp8 = false, kv = false, large = false, prefill = false, many = false;
  bool activation = false;
  for (const MeasuredOp& op : ops) {
    const bool gemm = op.kind == MeasuredOp::Kind::kGemm;
    fp8 = fp8 || (gemm && op.type == SimType::kFp8);
    bf16 = bf16 || (gemm && op.type == SimType::kBf16);
    large = large || (gemm && op.tokens >= 512);
    kv = kv || op.kind == MeasuredOp::Kind::kDecodeAttention;
    prefill = prefill || op.kind == MeasuredOp::Kind::kPrefillAttention;
    activation = activation || op.kind == MeasuredOp::Kind::kActivation;
  }
  for (const MeasuredStep& s : steps) {
    (s.weights == SimType::kFp8 ? fp8 : bf16) = true;
    kv = kv || s.work.kv_tokens > 0;
    large = large || s.work.tokens >= 512;
    prefill = prefill || s.work.score_pairs > 1e6;
    many = many || s.tp > 1;
  }
  std::vector<std::string> terms;
  const auto add = [&terms](bool wanted, const char* name) {
    if (wanted) terms.emplace_back(name);
  };
  add(!steps.empty(), "layer_overhead_us");
  add(activation, "activation_bytes_per_s");
  add(bf16, "weight_bytes_per_s_bf16");
  add(fp8, "weight_bytes_per_s_fp8");
  add(bf16 && large, "gemm_flops_bf16");
  add(fp8 && large, "gemm_flops_fp8");
  add(kv, "kv_bytes_per_s");
  add(prefill, "attention_flops");
  add(many, "all_reduce_latency_us");
  add(many && large, "all_reduce_bytes_per_s");
  return terms;
}

std::vector<std::string> split_commas(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ',');) parts.push_back(part);
  return parts;
}

/// Prints coefficients fitted to a step table; the quality of the fit goes to stderr.
int fit(const SimulateCommand& command, const DeviceCoefficients& start) {
  const auto text = read_small_file(command.fit, kMaxTableBytes);
  if (!text) return failed(text.error());
  const auto steps = parse_step_table(*text, command.fit);
  if (!steps) return failed(steps.error());
  const auto ops = parse_op_table(*text, command.fit);
  if (!ops) return failed(ops.error());
  if (steps->empty() && ops->empty()) {
    return failed(fail(ErrorCode::kInvalidArgument,
                       command.fit + ": nothing measured; make it with troupe bench step and "
                                     "troupe bench ops --json",
                       "--fit"));
  }
  const auto terms =
      command.fit_terms.empty() ? default_terms(*steps, *ops) : split_commas(command.fit_terms);
  const auto errors = [&](const DeviceCoefficients& device) {
    std::vector<double> out;
    for (const MeasuredStep& step : *steps) {
      const auto ms = predict_ms(step, device);
      out.push_back(std::log(ms.ok() ? *ms / step.ms : 1e9));
    }
    for (const MeasuredOp& op : *ops) out.push_back(std::log(predict_us(op, device) / op.us));
    return out;
  };
  const auto fitted = fit_coefficients(start, terms, errors);
  if (!fitted) return failed(fitted.error());
  std::fputs(to_json(*fitted).c_str(), stdout);
  const std::vector<double> all = errors(*fitted);
  const auto report = [](const char* what, std::span<const double> errors_of) {
    if (errors_of.empty()) return;
    double worst = 0;
    double sum = 0;
    for (const double e : errors_of) {
      worst = std::max(worst, std::abs(e));
      sum += std::abs(e);
    }
    std::fprintf(stderr, "%zu %s: error %.1f %% on average, %.1f %% at most; ", errors_of.size(),
                 what, 100 * sum / static_cast<double>(errors_of.size()), 100 * worst);
  };
  report("steps", std::span(all).first(steps->size()));
  report("operations", std::span(all).subspan(steps->size()));
  std::fprintf(stderr, "fitted:");
  for (const std::string& term : terms) std::fprintf(stderr, " %s", term.c_str());
  std::fputs("\n", stderr);
  return kExitOk;
}

/// For runs that take a while: once a second on stderr, from the third second on.
void print_progress(int32_t tp, const SimulationProgress& p) {
  if (p.wall_s < 3) return;
  std::fprintf(stderr,
               "TP %d: %lld of %lld requests, %.1f virtual seconds, %.2f million output tokens "
               "a second\n",
               tp, static_cast<long long>(p.ended), static_cast<long long>(p.requests), p.seconds,
               static_cast<double>(p.output_tokens) / p.wall_s * 1e-6);
}

/// Everything that the command line names, found and checked.
struct Setup {
  ModelConfig model;
  DeviceCoefficients device;
  SimType weights = SimType::kFp8;
  SimType kv = SimType::kFp8;
  std::vector<int32_t> tp;
  Workload workload;
};

Result<Setup> prepare(const SimulateCommand& command, DeviceCoefficients device) {
  Setup setup;
  setup.device = std::move(device);
  auto model = find_model_shape(command.model);
  if (!model) return model.error();
  setup.model = std::move(*model);
  const auto weights = parse_sim_type(command.weights, "--weights");
  const auto kv = parse_sim_type(command.kv, "--kv");
  if (!weights || !kv) return weights.ok() ? kv.error() : weights.error();
  setup.weights = *weights;
  setup.kv = *kv;
  auto tp = parse_tp_list(command.tp, command.count);
  if (!tp) return tp.error();
  setup.tp = std::move(*tp);
  if (!command.record.empty() && setup.tp.size() != 1) {
    return fail(ErrorCode::kInvalidArgument, "--record needs one --tp: a log is that of one router",
                "--record");
  }
  for (const int32_t each : setup.tp) {
    const auto fits = CostModel::create(setup.model, setup.device, each, setup.weights, setup.kv);
    if (!fits) return fits.error();
  }
  WorkloadOptions options;
  options.requests = static_cast<int32_t>(command.requests);
  options.rate = command.rate;
  options.max_tokens = command.max_tokens;
  options.max_context = setup.model.max_context;
  options.seed = command.seed;
  auto workload = make_workload(command.workload, options);
  if (!workload) return workload.error();
  setup.workload = std::move(*workload);
  return setup;
}

Result<Split> run_split(const SimulateCommand& command, const Setup& setup, int32_t tp) {
  Split split;
  split.tp = tp;
  split.dp = command.count / tp;
  split.has_targets = command.ttft_target > 0 || command.tpot_target > 0;
  const auto model = CostModel::create(setup.model, setup.device, tp, setup.weights, setup.kv);
  if (!model) return model.error();
  SimulationOptions options;
  options.dp = split.dp;
  options.max_rows = command.max_rows;
  options.max_step_tokens = std::max(command.max_step_tokens, command.max_rows);
  options.progress = [tp](const SimulationProgress& p) { print_progress(tp, p); };
  options.decode_slowdown =
      command.decode_slowdown == kNoSlowdownLimit ? 0 : command.decode_slowdown;
  options.ttft_target = Micros{command.ttft_target} * 1000;
  options.tpot_target = Micros{command.tpot_target} * 1000;
  std::unique_ptr<Recorder> recorder;
  if (!command.record.empty()) {
    auto opened = record_to_file(
        command.record, kRecordLimit, simulation_limits(*model, options),
        /*wait=*/true, [](const std::string& why) { std::fprintf(stderr, "%s\n", why.c_str()); });
    if (!opened) return opened.error();
    recorder = std::move(*opened);
    options.recorder = recorder.get();
  }
  auto result = simulate(*model, setup.workload, options);
  if (result.ok()) {
    split.result = std::move(*result);
  } else if (result.error().code == ErrorCode::kOutOfMemory) {
    split.problem = result.error().message;
  } else {
    return result.error();
  }
  return split;
}

}  // namespace

int simulate(const SimulateCommand& command) {
  auto device = find_coefficients(command.gpu, command.coefficients);
  if (!device) return failed(device.error());
  if (!command.fit.empty()) return fit(command, *device);
  const auto setup = prepare(command, std::move(*device));
  if (!setup) return failed(setup.error());
  const std::string title = setup->model.name + ", weights " + command.weights + ", KV " +
                            command.kv + ", " + std::to_string(command.count) + " x " +
                            setup->device.device + ", " + setup->workload.name + ", " +
                            std::to_string(setup->workload.requests.size()) + " requests";
  std::vector<Split> splits;
  for (const int32_t tp : setup->tp) {
    auto split = run_split(command, *setup, tp);
    if (!split) return failed(split.error());
    if (command.json) {
      std::puts(to_json(*split).c_str());
      std::fflush(stdout);
    }
    splits.push_back(std::move(*split));
  }
  if (!command.json) std::printf("%s\n\n%s", title.c_str(), to_table(splits).c_str());
  if (!command.svg.empty()) {
    std::ofstream file(command.svg);
    file << to_svg(splits, title);
    file.close();
    if (!file) return failed(fail(ErrorCode::kIo, "cannot write " + command.svg, "--svg"));
  }
  const bool any = std::any_of(splits.begin(), splits.end(),
                               [](const Split& split) { return split.problem.empty(); });
  return any ? kExitOk : kExitFailed;
}

}  // namespace troupe
