#include "gpu/sim/cost_model.h"

#include <algorithm>
#include <cmath>

namespace troupe {
namespace {

constexpr double kMicros = 1e6;
constexpr double kMaxSlots = 1 << 30;

double bytes_of(SimType type) { return type == SimType::kBf16 ? 2 : 1; }

std::string gigabytes(double bytes) {
  const auto tenths = static_cast<int64_t>(std::llround(bytes / 1e8));
  return std::to_string(tenths / 10) + "." + std::to_string(std::abs(tenths) % 10) + " GB";
}

}  // namespace

Result<SimType> parse_sim_type(const std::string& text, const std::string& option) {
  if (text == "bf16") return SimType::kBf16;
  if (text == "fp8") return SimType::kFp8;
  return fail(ErrorCode::kInvalidArgument, option + " must be bf16 or fp8", option);
}

const char* name_of(SimType type) { return type == SimType::kBf16 ? "bf16" : "fp8"; }

double gemm_us(const DeviceCoefficients& device, double tokens, double weights, SimType type) {
  const bool fp8 = type == SimType::kFp8;
  const double read = weights * bytes_of(type) /
                      (fp8 ? device.weight_bytes_per_s_fp8 : device.weight_bytes_per_s_bf16);
  const double work = 2 * tokens * weights / (fp8 ? device.gemm_flops_fp8 : device.gemm_flops_bf16);
  const double p = device.roofline_exponent;
  const double longer = std::max(read, work);
  if (longer <= 0) return 0;
  const double shorter = std::min(read, work) / longer;
  return kMicros * longer * std::pow(1 + std::pow(shorter, p), 1 / p);
}

Result<CostModel> CostModel::create(const ModelConfig& model, const DeviceCoefficients& device,
                                    int32_t tp, SimType weights, SimType kv) {
  if (tp < 1) return fail(ErrorCode::kInvalidArgument, "--tp must be at least 1", "--tp");
  if (tp > model.n_heads) {
    return fail(ErrorCode::kInvalidArgument,
                "--tp " + std::to_string(tp) + " is more than the " +
                    std::to_string(model.n_heads) + " attention heads of " + model.name,
                "--tp");
  }
  return CostModel(model, device, tp, weights, kv);
}

CostModel::CostModel(ModelConfig model, DeviceCoefficients device, int32_t tp, SimType weights,
                     SimType kv)
    : model_(std::move(model)), device_(std::move(device)), tp_(tp), weights_(weights) {
  const double h = model_.hidden;
  const double f = model_.ffn;
  const double ranks = tp;
  const double q = static_cast<double>(model_.n_heads) * model_.head_dim / ranks;
  // KV heads are dealt out whole: the busiest rank has the rounded-up share, at least one.
  const int64_t kv_heads = (model_.n_kv_heads + tp - 1) / tp;
  const double kv_width = 2.0 * static_cast<double>(kv_heads) * model_.head_dim;
  matrices_[0] = h * (q + kv_width);
  matrices_[1] = q * h;
  matrices_[2] = 2 * h * f / ranks;
  matrices_[3] = h * f / ranks;
  head_ = h * model_.vocab / ranks;
  // Read and written in bf16: two norms with residual on whole rows, q, k, v, o and the MLP's inner
  // width on this rank's share.
  activation_bytes_ = 2 * (6 * h + 2 * q + kv_width + 3 * f / ranks);
  kv_per_token_ = static_cast<int64_t>(kv_width * bytes_of(kv)) * model_.n_layers;
  const double layer = matrices_[0] + matrices_[1] + matrices_[2] + matrices_[3];
  // Embedding and output matrix stay bf16.
  weight_bytes_ = static_cast<int64_t>(layer * model_.n_layers * bytes_of(weights) +
                                       2 * head_ * (model_.tied_head ? 1 : 2));
}

StepCost CostModel::cost(const StepWork& work) const {
  StepCost cost;
  const double layers = model_.n_layers;
  const auto tokens = static_cast<double>(work.tokens);
  const auto sampled = static_cast<double>(work.sampled);
  for (const double matrix : matrices_)
    cost.linear += layers * gemm_us(device_, tokens, matrix, weights_);
  if (work.sampled > 0) cost.head = gemm_us(device_, sampled, head_, SimType::kBf16);
  cost.kv = kMicros * static_cast<double>(work.kv_tokens) * static_cast<double>(kv_per_token_) /
            device_.kv_bytes_per_s;
  const double width = static_cast<double>(model_.n_heads) * model_.head_dim / tp_;
  cost.attention = kMicros * layers * 4 * work.score_pairs * width / device_.attention_flops;
  cost.activation = kMicros * layers * tokens * activation_bytes_ / device_.activation_bytes_per_s;
  if (tp_ > 1) {
    // Two a layer, of bf16 rows; bus bandwidth counts 2 (N - 1) / N of the bytes.
    const double ranks = tp_;
    const double bytes = tokens * model_.hidden * 2 * 2 * (ranks - 1) / ranks;
    cost.all_reduce =
        2 * layers *
        (device_.all_reduce_latency_us + kMicros * bytes / device_.all_reduce_bytes_per_s);
  }
  cost.launch = layers * device_.layer_overhead_us;
  cost.host = device_.step_overhead_us + sampled * device_.row_overhead_us;
  return cost;
}

Result<int32_t> CostModel::pool_slots() const {
  const double room =
      (device_.memory_bytes - static_cast<double>(weight_bytes_) - device_.reserve_bytes) *
      device_.memory_fraction;
  const double slots = std::floor(room / static_cast<double>(kv_per_token_));
  if (slots < 1) {
    return fail(ErrorCode::kOutOfMemory,
                "does not fit: " + gigabytes(static_cast<double>(weight_bytes_)) +
                    " of weights a rank, " + gigabytes(device_.reserve_bytes) +
                    " of workspace, the device has " + gigabytes(device_.memory_bytes),
                "--tp");
  }
  return static_cast<int32_t>(std::min(slots, kMaxSlots));
}

}  // namespace troupe
