#pragma once

#include "gpu/quant/codes.h"

#include <cstddef>
#include <cstdint>
#include <vector>

/// Inside of gpu/ops/linear: what packing and the kernels of each instruction set agree on.
///
/// Weights lie in panels of 16 output rows, so that one vector lane is one row. Within a quantised
/// panel come the codes of all units, then the scales of all units:
///   nibbles  per unit 4 x 64 bytes; byte 4 * row + i of part j holds elements 4j + i (low nibble)
///            and 16 + 4j + i (high nibble)
///   bytes    per unit 8 x 64 bytes; byte 4 * row + i of part j holds element 4j + i
///   scales   per unit scales_per_unit() x 16 rows of f16 or f32
/// A plain panel (F32, F16, BF16) holds 16 rows' values for column 0, then for column 1, ...
/// Rows that pad the last panel are zero.
namespace troupe::cpu {

constexpr int64_t kPanelRows = 16;
constexpr int64_t kTileTokens = 64;  // tokens that share one pass over a panel
constexpr int64_t kCacheLine = 64;

/// A block whose largest magnitude is above so many times the average over its row's blocks is
/// wide.
constexpr float kWideRatio = 2.0F;

/// 32 activations of one token as x ~ scale * (256 * q[0] + q[1]). The few blocks of a row that
/// hold its largest values, and with them most of the rounding error, are wide: they have a fine
/// code. The others' is zero, and the kernels may leave it out. Which blocks are wide depends on
/// the row alone. Not finite input gives scale NaN and q zero, which makes all outputs of that
/// token NaN.
struct alignas(kCacheLine) ActivationBlock {
  int8_t q[2][kUnit];  // coarse, fine
  float scale;
  float scaled_sum;      // scale * sum, what an affine offset is multiplied by
  int32_t bias;          // -128 * sum: takes the centre of symmetric byte codes out
  int32_t half_bias[2];  // the same for each half
  int32_t wide;          // 1 when any q[1] may differ from zero, else 0
};

/// Activations are kept by tiles of kTileTokens tokens, and within a tile as [unit][token].
inline ActivationBlock* activation_tile(ActivationBlock* base, int64_t tile, int64_t units) {
  return base + tile * kTileTokens * units;
}

/// One call of a kernel: some consecutive panels times at most kTileTokens tokens.
struct PanelRun {
  const std::byte* panels;
  int64_t panel_stride;  // bytes
  int64_t rows;          // rows to write; the last panel may be partial
  int64_t cols;
  float* out;  // of the first row and token
  int64_t out_stride;
  const float* bias;  // of the first row, or null
  int64_t n_tokens;
};

enum class PlainLayout : uint8_t { kF32, kF16, kBF16, kExact };  // kExact: F32, summed in double

struct LinearKernels {
  const char* name;
  void (*quantize)(const float* x, int64_t units, ActivationBlock* out, int64_t stride);
  void (*quantized[6])(const PanelRun& run, const ActivationBlock* x);  // by CodeLayout
  void (*plain[4])(const PanelRun& run, const float* x);                // by PlainLayout
};

/// The kernels of an instruction set, or null where this machine lacks it.
const LinearKernels* portable_kernels();
const LinearKernels* avx2_kernels();
const LinearKernels* avx512_kernels();

/// All that this machine can run, the best first.
std::vector<const LinearKernels*> available_kernels();

}  // namespace troupe::cpu
