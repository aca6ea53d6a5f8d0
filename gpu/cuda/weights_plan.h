#pragma once

#include "gpu/cuda/linear.h"
#include "gpu/model/config.h"
#include "gpu/model/shard.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

/// Inside of Weights: what a rank's share consists of and where in its memory each part lies.
namespace troupe::cuda {

/// A rectangle of a checkpoint tensor, and the row of the placement that its first row becomes.
struct SourceSlice {
  std::string name;  // canonical, see checkpoint.h
  Range rows;
  Range cols;
  int64_t to_row = 0;
};

/// One matrix, slices of equal width stacked, or one vector (a single row).
struct Placement {
  std::vector<SourceSlice> slices;
  int64_t rows = 0;
  int64_t cols = 0;
  WeightFormat format = WeightFormat::kBf16;
  float random = 0.0F;  // for weights without a checkpoint: matrices' standard deviation, vectors'
                        // value
  size_t offset = 0;
  size_t scale_offset = 0;  // fp8: fp32 [rows]

  [[nodiscard]] size_t bytes() const {
    return static_cast<size_t>(rows * cols) * (format == WeightFormat::kFp8 ? 1 : 2);
  }
};

/// Indices into the plan's lists, -1 for what the model does not have.
struct LayerPlan {
  int32_t input_norm = -1, post_norm = -1, qkv_bias = -1, q_norm = -1, k_norm = -1, o_bias = -1;
  int32_t qkv = -1, o = -1, gate_up = -1, down = -1;
};

/// Pure arithmetic.
struct WeightsPlan {
  WeightsPlan(const ModelConfig& config, const Shard& shard, WeightFormat format, bool o_bias);

  std::vector<Placement> vectors;  // bf16, at the front of the memory
  std::vector<Placement> matrices;
  std::vector<LayerPlan> layers;
  int32_t embedding = -1;   // of matrices
  int32_t head = -1;        // of matrices, the embedding when tied
  int32_t final_norm = -1;  // of vectors
  size_t vector_bytes = 0;  // the part of the memory that holds vectors
  size_t bytes = 0;

 private:
  int32_t add_vector(std::vector<SourceSlice> slices, float value);
  int32_t add_matrix(std::vector<SourceSlice> slices, WeightFormat format, float deviation);
  void place();
};

}  // namespace troupe::cuda
