#pragma once

#include "gpu/base/result.h"
#include "gpu/sim/cost_model.h"

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace troupe {

/// One measured step: `rows` decoding rows that hold `context` tokens each, together with a prompt
/// chunk of `prefill_tokens` that begins a sequence; all rows and the chunk's end are sampled.
struct MeasuredStep {
  ModelConfig model;
  SimType weights = SimType::kBf16;
  SimType kv = SimType::kBf16;
  int32_t tp = 1;
  StepWork work;
  double ms = 0;
};

/// Reads a step table as `troupe bench step` prints it, one JSON object a line:
///   {"bench":"step","model":"llama-3-8b","weights":"fp8","kv":"bf16","tp":1,"rows":64,
///    "context":1024,"prefill_tokens":0,"ms":6.03}
/// Further keys are allowed; lines with another "bench" are skipped, empty lines too, and steps
/// that did not fit ("skipped"). A bad line is refused with its number. May be empty.
Result<std::vector<MeasuredStep>> parse_step_table(std::string_view text,
                                                   const std::string& source);

/// One measured operation that the cost model has a term for.
struct MeasuredOp {
  enum class Kind : uint8_t { kGemm, kDecodeAttention, kPrefillAttention, kActivation };
  Kind kind = Kind::kGemm;
  SimType type = SimType::kBf16;  // kGemm: of the weights
  double tokens = 0;              // kGemm
  double size = 0;  // kGemm: elements of the matrix; prefill: operations; else bytes moved
  double us = 0;
};

/// Reads the operations of `troupe bench ops --json` ("bench":"op"); other lines are skipped, and
/// so are operations without a term of their own (sampler, plan) or too small to tell bandwidth
/// from launch (less than 8 MB of activations). A bad line is refused with its number. May be
/// empty.
Result<std::vector<MeasuredOp>> parse_op_table(std::string_view text, const std::string& source);

/// Microseconds that the model predicts for a measured operation.
double predict_us(const MeasuredOp& op, const DeviceCoefficients& device);

/// Milliseconds that the model predicts for a measured step.
Result<double> predict_ms(const MeasuredStep& step, const DeviceCoefficients& device);

/// Changes the coefficients `names` of `start` so that the sum of squares of `residuals` becomes
/// small (Levenberg-Marquardt on their logarithms); each stays in its range, coefficients that no
/// residual depends on stay as they are. Appends the names to `fitted`.
Result<DeviceCoefficients> fit_coefficients(
    const DeviceCoefficients& start, std::span<const std::string> names,
    const std::function<std::vector<double>(const DeviceCoefficients&)>& residuals);

}  // namespace troupe
