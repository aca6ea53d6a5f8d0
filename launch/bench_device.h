#pragma once

#include "gpu/base/result.h"
#include "gpu/model/config.h"

#include <algorithm>
#include <string>

/// What the measurements of a GPU rank have in common.
namespace troupe {

/// A device's limits as measured: bytes/s read, bf16 and fp8 FLOP/s.
struct DeviceLimits {
  double bandwidth = 4.54e12;
  double bf16 = 790e12;
  double fp8 = 1450e12;

  /// Of a GPU by its name: H200, else the H100's memory.
  static DeviceLimits of(const std::string& gpu) {
    DeviceLimits limits;
    if (gpu.find("H200") == std::string::npos) limits.bandwidth = 3.0e12;
    return limits;
  }
  /// Seconds that the bytes or the arithmetic take, whichever is longer.
  [[nodiscard]] double floor(double bytes, double flops, bool is_fp8) const {
    return std::max(bytes / bandwidth, flops / (is_fp8 ? fp8 : bf16));
  }
};

/// A built-in shape or a model on disk. A built-in shape gets rotary frequencies and a context that
/// steps can have.
Result<ModelConfig> find_bench_model(const std::string& name);

}  // namespace troupe
