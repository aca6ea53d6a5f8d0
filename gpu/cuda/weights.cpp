#include "gpu/cuda/weights.h"

#include "gpu/base/check.h"
#include "gpu/cuda/quantize.h"
#include "gpu/cuda/weights_loader.h"
#include "gpu/cuda/weights_plan.h"
#include "gpu/quant/dequantize.h"

#include <algorithm>
#include <string>
#include <utility>

namespace troupe::cuda {
namespace {

constexpr int64_t kScratchValues = int64_t{64} << 20;

std::string gib(size_t bytes) {
  const auto hundredths = static_cast<int64_t>(static_cast<double>(bytes) / (1 << 30) * 100.0);
  const std::string rest = std::to_string(hundredths % 100);
  return std::to_string(hundredths / 100) + "." + (rest.size() < 2 ? "0" : "") + rest + " GiB";
}

Result<DeviceBuffer<std::byte>> allocate(size_t bytes) {
  size_t free = 0;
  size_t total = 0;
  TROUPE_CUDA(cudaMemGetInfo(&free, &total));
  const auto too_small = [&] {
    return fail(ErrorCode::kOutOfMemory, "The weights need " + gib(bytes) + " but the GPU has " +
                                             gib(free) + " free of " + gib(total) +
                                             ": use more ranks, fp8 weights or a smaller model.");
  };
  if (bytes > free) return too_small();
  try {
    return DeviceBuffer<std::byte>(bytes);
  } catch (const DeviceError&) {
    cudaGetLastError();  // clears it: running out of memory is not sticky
    return too_small();
  }
}

/// Random values for one matrix; fp8 by way of a bf16 scratch buffer.
void fill_matrix(const Placement& p, std::byte* memory, DeviceBuffer<__nv_bfloat16>& scratch,
                 uint64_t seed) {
  if (p.format == WeightFormat::kBf16) {
    fill_normal(reinterpret_cast<__nv_bfloat16*>(memory + p.offset), p.rows * p.cols, p.random,
                seed, nullptr);
    return;
  }
  if (p.rows == 0 || p.cols == 0) return;
  if (scratch.size() == 0) {
    scratch = DeviceBuffer<__nv_bfloat16>(static_cast<size_t>(std::max(kScratchValues, p.cols)));
  }
  TROUPE_CHECK(static_cast<size_t>(p.cols) <= scratch.size()) << p.cols;
  const int64_t rows_at_once = static_cast<int64_t>(scratch.size()) / p.cols;
  auto* codes = reinterpret_cast<uint8_t*>(memory + p.offset);
  auto* scale = reinterpret_cast<float*>(memory + p.scale_offset);
  for (int64_t row = 0; row < p.rows; row += rows_at_once) {
    const int64_t n = std::min(rows_at_once, p.rows - row);
    fill_normal(scratch.data(), n * p.cols, p.random, seed + (static_cast<uint64_t>(row) << 20),
                nullptr);
    quantize_weights(codes + row * p.cols, scale + row, scratch.data(), n, p.cols, nullptr);
  }
}

/// The kernels read e4m3 rows in pieces of 16 bytes.
Status check_widths(const WeightsPlan& plan) {
  constexpr int64_t kPiece = 16;
  for (const Placement& p : plan.matrices) {
    if (p.format == WeightFormat::kBf16 || p.cols % kPiece == 0) continue;
    return fail(ErrorCode::kBadModel, "fp8 weights need widths that are multiples of 16, but " +
                                          p.slices.front().name + " has " + std::to_string(p.cols) +
                                          " columns on this rank: use bf16 weights.");
  }
  return ok_status();
}

}  // namespace

Result<WeightFormat> stored_format(const Checkpoint& checkpoint) {
  const Result<bool> e4m3 = has_e4m3_layers(checkpoint);
  if (!e4m3) return e4m3.error();
  return *e4m3 ? WeightFormat::kFp8 : WeightFormat::kBf16;
}

void Weights::read_kv_scales(const Checkpoint& checkpoint) {
  const auto read = [&](size_t layer, const char* which, float& scale) {
    const TensorView* t =
        checkpoint.find("layers." + std::to_string(layer) + ".self_attn." + which);
    if (t != nullptr) dequantize_row(t->dtype, t->data, 0, 1, &scale);
  };
  for (size_t i = 0; i < layers_.size(); ++i) {
    read(i, "k_scale", layers_[i].k_scale);
    read(i, "v_scale", layers_[i].v_scale);
  }
}

size_t Weights::bytes(const ModelConfig& config, const Shard& shard, WeightFormat format,
                      bool o_bias) {
  return WeightsPlan(config, shard, format, o_bias).bytes;
}

std::unique_ptr<Weights> Weights::lay_out(const WeightsPlan& plan, DeviceBuffer<std::byte> memory) {
  std::unique_ptr<Weights> out(new Weights);  // private constructor
  const std::byte* base = memory.data();
  const auto vector = [&](int32_t i) {
    return i < 0 ? nullptr
                 : reinterpret_cast<const __nv_bfloat16*>(
                       base + plan.vectors[static_cast<size_t>(i)].offset);
  };
  const auto matrix = [&](int32_t i) {
    const Placement& p = plan.matrices[static_cast<size_t>(i)];
    const auto* scale = p.format == WeightFormat::kFp8
                            ? reinterpret_cast<const float*>(base + p.scale_offset)
                            : nullptr;
    return Weight{p.format, base + p.offset, scale, p.rows, p.cols};
  };
  for (const LayerPlan& p : plan.layers) {
    LayerWeights layer;
    layer.input_norm = vector(p.input_norm);
    layer.qkv = matrix(p.qkv);
    layer.qkv_bias = vector(p.qkv_bias);
    layer.q_norm = vector(p.q_norm);
    layer.k_norm = vector(p.k_norm);
    layer.o = matrix(p.o);
    layer.o_bias = vector(p.o_bias);
    layer.post_norm = vector(p.post_norm);
    layer.gate_up = matrix(p.gate_up);
    layer.down = matrix(p.down);
    out->layers_.push_back(layer);
  }
  out->embedding_ = static_cast<const __nv_bfloat16*>(matrix(plan.embedding).data);
  out->final_norm_ = vector(plan.final_norm);
  out->head_ = matrix(plan.head);
  out->memory_ = std::move(memory);
  return out;
}

Result<std::unique_ptr<Weights>> Weights::load(const Checkpoint& checkpoint, const Shard& shard,
                                               bool first_rank, WeightFormat format,
                                               int32_t n_threads) {
  const bool o_bias = first_rank && checkpoint.find("layers.0.self_attn.o_proj.bias") != nullptr;
  const WeightsPlan plan(checkpoint.config(), shard, format, o_bias);
  if (Status status = check_widths(plan); !status) return status.error();
  Result<DeviceBuffer<std::byte>> memory = allocate(plan.bytes);
  if (!memory) return memory.error();
  const Status status = load_weights(checkpoint, plan, memory->data(), n_threads);
  if (!status) return status.error();
  std::unique_ptr<Weights> out = lay_out(plan, std::move(memory).value());
  out->read_kv_scales(checkpoint);
  return out;
}

Result<std::unique_ptr<Weights>> Weights::random(const ModelConfig& config, const Shard& shard,
                                                 WeightFormat format, uint64_t seed) {
  const WeightsPlan plan(config, shard, format, false);
  if (Status status = check_widths(plan); !status) return status.error();
  Result<DeviceBuffer<std::byte>> memory = allocate(plan.bytes);
  if (!memory) return memory.error();
  for (const Placement& p : plan.vectors) {
    fill(reinterpret_cast<__nv_bfloat16*>(memory->data() + p.offset), p.cols, p.random, nullptr);
  }
  DeviceBuffer<__nv_bfloat16> scratch;
  uint64_t matrix_seed = seed << 32;
  for (const Placement& p : plan.matrices) {
    fill_matrix(p, memory->data(), scratch, matrix_seed++);
  }
  TROUPE_CUDA(cudaStreamSynchronize(nullptr));
  return lay_out(plan, std::move(memory).value());
}

}  // namespace troupe::cuda
