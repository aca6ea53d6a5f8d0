#include "gpu/sim/fit.h"

#include "gpu/base/check.h"
#include "gpu/model/mapped_file.h"
#include "gpu/sim/model_shapes.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <map>
#include <optional>
#include <utility>

namespace troupe {
namespace {

using nlohmann::json;
using Row = std::vector<double>;

constexpr int64_t kMaxTokens = int64_t{1} << 32;
constexpr int kIterations = 100;

/// One line's fields; the first problem is kept.
class Line {
 public:
  explicit Line(const json& object) : object_(object) {}
  int64_t integer(const char* name, int64_t least, int64_t most) {
    const auto found = object_.find(name);
    if (found == object_.end() || !found->is_number_unsigned() ||
        found->get<uint64_t>() > static_cast<uint64_t>(most) || found->get<int64_t>() < least) {
      note(std::string("'") + name + "' must be a whole number from " + std::to_string(least) +
           " to " + std::to_string(most));
      return least;
    }
    return found->get<int64_t>();
  }
  std::string text(const char* name) {
    const auto found = object_.find(name);
    if (found != object_.end() && found->is_string()) return found->get<std::string>();
    note(std::string("'") + name + "' must be a text");
    return {};
  }
  double positive(const char* name, double below = 1e9) {
    const auto found = object_.find(name);
    if (found != object_.end() && found->is_number() && found->get<double>() > 0 &&
        found->get<double>() < below) {
      return found->get<double>();
    }
    note(std::string("'") + name + "' must be a positive number");
    return 1;
  }
  void note(const std::string& what) {
    if (problem.empty()) problem = what;
  }
  std::string problem;

 private:
  const json& object_;
};

MeasuredStep read_step(Line& line, std::map<std::string, ModelConfig>& models) {
  MeasuredStep step;
  const std::string name = line.text("model");
  if (!models.contains(name) && line.problem.empty()) {
    auto model = find_model_shape(name);
    if (model.ok()) {
      models[name] = std::move(*model);
    } else {
      line.note(model.error().message);
    }
  }
  step.model = models[name];
  const auto weights = parse_sim_type(line.text("weights"), "'weights'");
  const auto kv = parse_sim_type(line.text("kv"), "'kv'");
  if (!weights) line.note(weights.error().message);
  if (!kv) line.note(kv.error().message);
  step.weights = weights.ok() ? *weights : SimType::kBf16;
  step.kv = kv.ok() ? *kv : SimType::kBf16;
  step.tp = static_cast<int32_t>(line.integer("tp", 1, 1024));
  if (line.problem.empty() && step.tp > step.model.n_heads) line.note("'tp' is above the heads");
  const int64_t rows = line.integer("rows", 0, 1 << 20);
  const int64_t context = line.integer("context", 0, 1 << 24);
  const int64_t prefill = line.integer("prefill_tokens", 0, 1 << 24);
  if (rows + prefill < 1 || rows * context > kMaxTokens) line.note("the step is empty or absurd");
  step.work.tokens = rows + prefill;
  step.work.sampled = rows + (prefill > 0 ? 1 : 0);
  step.work.kv_tokens = rows * context;
  step.work.score_pairs = 0.5 * static_cast<double>(prefill) * static_cast<double>(prefill + 1);
  step.ms = line.positive("ms");
  return step;
}

double sum_of_squares(const Row& values) {
  double sum = 0;
  for (const double v : values) sum += v * v;
  return sum;
}

/// Solves a x = b for a symmetric positive definite matrix by elimination with pivots.
Row solve(std::vector<Row> a, Row b) {
  const size_t n = b.size();
  for (size_t k = 0; k < n; ++k) {
    size_t pivot = k;
    for (size_t i = k + 1; i < n; ++i) {
      if (std::abs(a[i][k]) > std::abs(a[pivot][k])) pivot = i;
    }
    std::swap(a[k], a[pivot]);
    std::swap(b[k], b[pivot]);
    for (size_t i = k + 1; i < n; ++i) {
      const double factor = a[i][k] / a[k][k];
      for (size_t j = k; j < n; ++j) a[i][j] -= factor * a[k][j];
      b[i] -= factor * b[k];
    }
  }
  for (size_t k = n; k-- > 0;) {
    for (size_t j = k + 1; j < n; ++j) b[k] -= a[k][j] * b[j];
    b[k] /= a[k][k];
  }
  return b;
}

}  // namespace

namespace {

/// Calls read(line) for every JSON object of kind `bench`; the first problem ends it.
template <class Read>
Status each_line(std::string_view text, const std::string& source, const char* kind,
                 const Read& read) {
  int64_t number = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    const std::string where = source + ":" + std::to_string(number) + ": ";
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const json object = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!object.is_object()) {
      return fail(ErrorCode::kInvalidArgument, where + "not a JSON object", "--fit");
    }
    const auto bench = object.find("bench");
    if (bench == object.end() || *bench != kind || object.contains("skipped")) continue;
    Line fields(object);
    read(fields);
    if (!fields.problem.empty()) {
      return fail(ErrorCode::kInvalidArgument, where + fields.problem, "--fit");
    }
  }
  return ok_status();
}

bool is_one_of(const std::string& text, std::initializer_list<const char*> list) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

// Below these an operation's time is launch and latency more than its bytes or arithmetic, which
// the model counts elsewhere (layer_overhead_us).
constexpr double kSmallestActivations = 8e6;  // bytes
constexpr double kSmallestKv = 32e6;          // bytes
constexpr double kSmallestPrefill = 1e10;     // operations

/// None when the model has no term for it.
std::optional<MeasuredOp> read_op(Line& line) {
  MeasuredOp op;
  const std::string name = line.text("op");
  op.us = line.positive("us");
  op.tokens = static_cast<double>(line.integer("tokens", 1, 1 << 24));
  if (is_one_of(name, {"qkv", "o", "gate_up", "down", "head"})) {
    op.size = static_cast<double>(line.integer("rows", 1, 1 << 24)) *
              static_cast<double>(line.integer("cols", 1, 1 << 24));
    const auto weights = parse_sim_type(line.text("weights"), "'weights'");
    if (!weights) line.note(weights.error().message);
    op.type = weights.ok() && name != "head" ? *weights : SimType::kBf16;
    return op;
  }
  if (name == "decode_attention") {
    op.kind = MeasuredOp::Kind::kDecodeAttention;
    op.size = line.positive("bytes", 1e15);
    if (op.size >= kSmallestKv) return op;
  }
  if (name == "prefill_attention") {
    op.kind = MeasuredOp::Kind::kPrefillAttention;
    op.size = line.positive("flops", 1e21);
    if (op.size >= kSmallestPrefill) return op;
  }
  if (is_one_of(name, {"norm", "act", "rope_and_kv", "quantise"})) {
    op.kind = MeasuredOp::Kind::kActivation;
    op.size = line.positive("bytes", 1e15);
    if (op.size >= kSmallestActivations) return op;
  }
  return std::nullopt;
}

}  // namespace

Result<std::vector<MeasuredStep>> parse_step_table(std::string_view text,
                                                   const std::string& source) {
  std::vector<MeasuredStep> steps;
  std::map<std::string, ModelConfig> models;
  const Status status = each_line(text, source, "step",
                                  [&](Line& line) { steps.push_back(read_step(line, models)); });
  if (!status) return status.error();
  return steps;
}

Result<std::vector<MeasuredOp>> parse_op_table(std::string_view text, const std::string& source) {
  std::vector<MeasuredOp> ops;
  const Status status = each_line(text, source, "op", [&](Line& line) {
    if (const auto op = read_op(line)) ops.push_back(*op);
  });
  if (!status) return status.error();
  return ops;
}

double predict_us(const MeasuredOp& op, const DeviceCoefficients& device) {
  switch (op.kind) {
    case MeasuredOp::Kind::kGemm: return gemm_us(device, op.tokens, op.size, op.type);
    case MeasuredOp::Kind::kDecodeAttention: return op.size / device.kv_bytes_per_s * 1e6;
    case MeasuredOp::Kind::kPrefillAttention: return op.size / device.attention_flops * 1e6;
    case MeasuredOp::Kind::kActivation: return op.size / device.activation_bytes_per_s * 1e6;
  }
  return 0;
}

Result<double> predict_ms(const MeasuredStep& step, const DeviceCoefficients& device) {
  const auto model = CostModel::create(step.model, device, step.tp, step.weights, step.kv);
  if (!model) return model.error();
  return model->cost(step.work).total() * 1e-3;
}

Result<DeviceCoefficients> fit_coefficients(
    const DeviceCoefficients& start, std::span<const std::string> names,
    const std::function<std::vector<double>(const DeviceCoefficients&)>& residuals) {
  std::vector<const Coefficient*> free;
  for (const std::string& name : names) {
    const auto& list = coefficient_list();
    const auto found = std::find_if(list.begin(), list.end(),
                                    [&](const Coefficient& c) { return name == c.name; });
    if (found == list.end()) {
      return fail(ErrorCode::kInvalidArgument, "no coefficient '" + printable(name) + "'",
                  "--fit-terms");
    }
    free.push_back(&*found);
  }
  // A value of zero has no logarithm: it starts from something small instead.
  constexpr double kTiny = 1e-3;
  constexpr double kStep = 1e-4;
  const auto with = [&](const DeviceCoefficients& from, const Row& change) {
    DeviceCoefficients to = from;
    for (size_t i = 0; i < free.size(); ++i) {
      const double value = std::max(from.*free[i]->value, kTiny) * std::exp(change[i]);
      to.*free[i]->value = std::clamp(value, free[i]->least, free[i]->most);
    }
    return to;
  };
  DeviceCoefficients best = start;
  Row errors = residuals(best);
  double damping = 1e-3;
  for (int round = 0; round < kIterations && damping < 1e8; ++round) {
    std::vector<Row> slopes;  // by coefficient, then residual
    for (size_t i = 0; i < free.size(); ++i) {
      Row change(free.size(), 0.0);
      change[i] = kStep;
      Row moved = residuals(with(best, change));
      TROUPE_CHECK(moved.size() == errors.size()) << moved.size();
      for (size_t r = 0; r < moved.size(); ++r) moved[r] = (moved[r] - errors[r]) / kStep;
      slopes.push_back(std::move(moved));
    }
    std::vector<Row> normal(free.size(), Row(free.size(), 0.0));
    Row gradient(free.size(), 0.0);
    for (size_t i = 0; i < free.size(); ++i) {
      for (size_t r = 0; r < errors.size(); ++r) {
        gradient[i] -= slopes[i][r] * errors[r];
        for (size_t j = 0; j < free.size(); ++j) normal[i][j] += slopes[i][r] * slopes[j][r];
      }
    }
    for (size_t i = 0; i < free.size(); ++i) normal[i][i] += damping * (normal[i][i] + 1e-9);
    Row change = solve(normal, gradient);
    for (double& c : change) c = std::clamp(c, -1.0, 1.0);
    const DeviceCoefficients next = with(best, change);
    Row next_errors = residuals(next);
    const double before = sum_of_squares(errors);
    const double after = sum_of_squares(next_errors);
    if (after < before) {
      best = next;
      errors = std::move(next_errors);
      damping = std::max(damping / 4, 1e-9);
      if (before - after < 1e-12 * before) break;
    } else {
      damping *= 8;
    }
  }
  for (const Coefficient* c : free) {
    if (std::find(best.fitted.begin(), best.fitted.end(), c->name) == best.fitted.end()) {
      best.fitted.emplace_back(c->name);
    }
  }
  return best;
}

}  // namespace troupe
