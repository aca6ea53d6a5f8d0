// How well the simulator predicts what others measured. Prints which coefficients were fitted,
// every cell with its error and one JSON line. Fails when a published throughput, one that the fit
// saw or one that it did not, is missed by more than 15 %, or a predicted step is below the floor.
//
//   sim_calibration [--coefficients FILE] [--fit NAME,NAME...]
//
// --fit refits the named coefficients of h200 to the first table and prints the file.
#include "actors/sim/simulation.h"
#include "gpu/sim/fit.h"
#include "gpu/sim/model_shapes.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

namespace troupe {
namespace {

constexpr double kBar = 0.15;

[[noreturn]] void give_up(const std::string& why) {
  std::fprintf(stderr, "error: %s\n", why.c_str());
  std::exit(2);
}

template <class T>
T must(Result<T> result) {
  if (!result) give_up(result.error().message);
  return std::move(*result);
}

/// Output tokens per second with all requests at once.
struct Throughput {
  const char* model;
  const char* workload;
  int32_t requests;
  int32_t tp;
  double published;
};

// TensorRT-LLM v0.17 performance overview, H200, Llama-3.x 70B FP8 with FP8 KV. The numbers of
// requests are those the overview names for each pair of lengths.
constexpr Throughput kPublished[] = {
    {"llama-3-70b", "random:1000/1000", 3000, 1, 2823},
    {"llama-3-70b", "random:1000/1000", 3000, 2, 5165},
    {"llama-3-70b", "random:1000/1000", 3000, 4, 8911},
    {"llama-3-70b", "random:1000/1000", 3000, 8, 13181},
    {"llama-3-70b", "random:128/2048", 3000, 1, 4166},
    {"llama-3-70b", "random:128/2048", 3000, 2, 8290},
    {"llama-3-70b", "random:128/2048", 3000, 4, 14156},
    {"llama-3-70b", "random:128/2048", 3000, 8, 21196},
    {"llama-3-70b", "random:2048/2048", 1500, 1, 1914},
    {"llama-3-70b", "random:2048/2048", 1500, 2, 4184},
    {"llama-3-70b", "random:2048/2048", 1500, 4, 7130},
    {"llama-3-70b", "random:2048/2048", 1500, 8, 11142},
};

// Not used for any fit: version 1.0 of the same overview, other lengths, sizes and devices.
constexpr Throughput kHeldOut[] = {
    {"llama-3-70b", "random:128/128", 30000, 1, 3803},
    {"llama-3-70b", "random:128/4096", 1500, 1, 2872},
    {"llama-3-70b", "random:500/2000", 3000, 1, 3666},
    {"llama-3-70b", "random:1000/2000", 1500, 1, 2994},
    {"llama-3-70b", "random:2048/128", 3000, 1, 442},
    {"llama-3-70b", "random:5000/500", 1500, 1, 566},
    {"llama-3-8b", "random:128/2048", 3000, 1, 26221},
    {"llama-3-8b", "random:1000/1000", 3000, 1, 17744},
    {"llama-3-8b", "random:2048/2048", 1500, 1, 12194},
    {"llama-3-405b", "random:128/2048", 3000, 8, 5348},
    {"llama-3-405b", "random:1000/1000", 3000, 8, 3330},
    {"llama-3-405b", "random:2048/2048", 1500, 8, 2948},
};
constexpr Throughput kHeldOutH100[] = {
    {"llama-3-70b", "random:128/2048", 3000, 2, 6651},
    {"llama-3-70b", "random:1000/1000", 3000, 2, 4205},
    {"llama-3-70b", "random:2048/2048", 1500, 2, 3082},
    {"llama-3-8b", "random:1000/1000", 3000, 1, 15220},
};

/// One step on one H200.
struct Step {
  const char* model;
  SimType weights, kv;
  int64_t rows, context, prefill;
  double ms;
};
constexpr SimType kB = SimType::kBf16;
constexpr SimType kF = SimType::kFp8;

// vLLM 0.26 on one H200, measured. A peer with its own overheads: a check of the order only.
constexpr Step kVllm[] = {
    {"llama-3-8b", kB, kB, 1, 1024, 0, 4.89},   {"llama-3-8b", kB, kB, 16, 1024, 0, 5.55},
    {"llama-3-8b", kB, kB, 64, 1024, 0, 7.54},  {"llama-3-8b", kB, kB, 128, 1024, 0, 10.2},
    {"llama-3-8b", kB, kB, 256, 1024, 0, 17.2}, {"llama-3-8b", kB, kB, 512, 1024, 0, 33.3},
    {"llama-3-8b", kF, kB, 1, 1024, 0, 3.50},   {"llama-3-8b", kF, kB, 16, 1024, 0, 4.06},
    {"llama-3-8b", kF, kB, 64, 1024, 0, 6.03},  {"llama-3-8b", kF, kB, 256, 1024, 0, 16.5},
    {"llama-3-8b", kF, kB, 512, 1024, 0, 28.4}, {"llama-3-70b", kF, kB, 1, 1024, 0, 20.6},
    {"llama-3-70b", kF, kB, 32, 1024, 0, 29.7}, {"llama-3-70b", kF, kB, 64, 1024, 0, 28.0},
    {"llama-3-8b", kB, kB, 0, 0, 512, 15.9},    {"llama-3-8b", kB, kB, 0, 0, 2048, 52.6},
    {"llama-3-8b", kB, kB, 0, 0, 8000, 214},    {"llama-3-8b", kF, kB, 0, 0, 512, 12.0},
    {"llama-3-8b", kF, kB, 0, 0, 2048, 33.2},   {"llama-3-70b", kF, kB, 0, 0, 2048, 254},
};

// The floor: every byte at 4.3 TB/s or every operation at 790 TFLOP/s bf16, 1.4 PFLOP/s fp8. No
// prediction may be below it.
constexpr Step kFloor[] = {
    {"llama-3-8b", kB, kB, 1, 1024, 0, 3.5},    {"llama-3-8b", kB, kB, 16, 1024, 0, 4.0},
    {"llama-3-8b", kB, kB, 64, 1024, 0, 5.6},   {"llama-3-8b", kB, kB, 256, 1024, 0, 12.9},
    {"llama-3-8b", kF, kF, 1, 1024, 0, 1.9},    {"llama-3-8b", kF, kF, 64, 1024, 0, 2.9},
    {"llama-3-8b", kF, kF, 256, 1024, 0, 6.9},  {"llama-3-70b", kF, kF, 1, 1024, 0, 16.5},
    {"llama-3-70b", kF, kF, 64, 1024, 0, 19.2}, {"llama-3-70b", kF, kF, 256, 1024, 0, 35.7},
    {"llama-3-8b", kB, kB, 0, 0, 2048, 38},     {"llama-3-8b", kF, kF, 0, 0, 2048, 22},
    {"llama-3-70b", kF, kF, 0, 0, 2048, 209},
};

double predict(const Throughput& cell, const DeviceCoefficients& device) {
  const ModelConfig shape = must(find_model_shape(cell.model));
  const CostModel model =
      must(CostModel::create(shape, device, cell.tp, SimType::kFp8, SimType::kFp8));
  WorkloadOptions options;
  options.requests = cell.requests;
  options.max_context = shape.max_context;
  const Workload workload = must(make_workload(cell.workload, options));
  return must(simulate(model, workload, {})).output_tokens_per_s;
}

double predict(const Step& cell, const DeviceCoefficients& device) {
  MeasuredStep step;
  step.model = must(find_model_shape(cell.model));
  step.weights = cell.weights;
  step.kv = cell.kv;
  step.work.tokens = cell.rows + cell.prefill;
  step.work.sampled = cell.rows + (cell.prefill > 0 ? 1 : 0);
  step.work.kv_tokens = cell.rows * cell.context;
  const auto prefill = static_cast<double>(cell.prefill);
  step.work.score_pairs = prefill * (prefill + 1) / 2;
  return must(predict_ms(step, device));
}

/// Prints the cells; returns the largest error.
template <class Cells>
double report(const char* title, const Cells& cells, const DeviceCoefficients& device) {
  std::printf("%s\n", title);
  double worst = 0;
  for (const Throughput& cell : cells) {
    const double predicted = predict(cell, device);
    const double error = predicted / cell.published - 1;
    worst = std::max(worst, std::abs(error));
    std::printf("  %-12s %-17s TP%d  published %7.0f  predicted %7.0f  %+6.1f %%\n", cell.model,
                cell.workload, cell.tp, cell.published, predicted, 100 * error);
    std::fflush(stdout);
  }
  return worst;
}

/// Prints the cells; returns the smallest ratio of prediction to what the cell says.
template <class Cells>
double report_steps(const char* title, const char* what, const Cells& cells,
                    const DeviceCoefficients& device) {
  std::printf("%s\n", title);
  double least = 1e9;
  for (const Step& cell : cells) {
    const double predicted = predict(cell, device);
    least = std::min(least, predicted / cell.ms);
    std::printf(
        "  %-12s %s/%s  %3d rows of %4d, prompt %4d  %s %6.1f ms  predicted %6.1f ms  x %.2f\n",
        cell.model, name_of(cell.weights), name_of(cell.kv), static_cast<int>(cell.rows),
        static_cast<int>(cell.context), static_cast<int>(cell.prefill), what, cell.ms, predicted,
        predicted / cell.ms);
  }
  return least;
}

int fit(const DeviceCoefficients& start, const std::string& names) {
  std::vector<std::string> terms;
  std::istringstream in(names);
  for (std::string term; std::getline(in, term, ',');) terms.push_back(term);
  const auto errors = [](const DeviceCoefficients& device) {
    std::vector<double> out;
    for (const Throughput& cell : kPublished) {
      out.push_back(std::log(predict(cell, device) / cell.published));
    }
    return out;
  };
  std::fputs(to_json(must(fit_coefficients(start, terms, errors))).c_str(), stdout);
  return 0;
}

int run(int argc, char** argv) {
  DeviceCoefficients device = must(builtin_coefficients("h200"));
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string option = argv[i];
    if (option == "--coefficients") {
      device = must(find_coefficients("", argv[i + 1]));
    } else if (option == "--fit") {
      return fit(device, argv[i + 1]);
    } else {
      give_up("unknown option " + option);
    }
  }
  std::printf("device %s, fitted:", device.device.c_str());
  for (const std::string& name : device.fitted) std::printf(" %s", name.c_str());
  std::printf("; all other coefficients are measured, published or estimated beforehand\n\n");
  const double worst =
      report("Published, Llama 70B FP8 on H200 (the fit saw these)", kPublished, device);
  const double held_out = report("\nHeld out: other lengths and models", kHeldOut, device);
  const double h100 = report("\nHeld out: H100, no coefficient fitted", kHeldOutH100,
                             must(builtin_coefficients("h100")));
  report_steps("\nvLLM 0.26 on one H200", "measured", kVllm, device);
  const double floor = report_steps("\nFloors", "floor", kFloor, device);
  std::printf(
      "{\"bench\":\"sim_calibration\",\"worst\":%.4f,\"bar\":%.2f,\"worst_held_out\":%.4f,"
      "\"worst_held_out_h100\":%.4f,\"least_over_floor\":%.3f,\"fitted\":%zu}\n",
      worst, kBar, held_out, h100, floor, device.fitted.size());
  return std::max({worst, held_out, h100}) <= kBar && floor >= 1 ? 0 : 1;
}

}  // namespace
}  // namespace troupe

int main(int argc, char** argv) { return troupe::run(argc, argv); }
