#pragma once

#include "gpu/base/result.h"

#include <string>
#include <string_view>
#include <vector>

namespace troupe {

/// What the cost model knows about one device. SI units, per device; the JSON files in
/// gpu/sim/devices have the same names and say where each value comes from.
struct DeviceCoefficients {
  std::string device;
  // Memory: the KV pool is memory_fraction of what weights and reserve leave.
  double memory_bytes = 0;
  double memory_fraction = 0;
  double reserve_bytes = 0;
  // Linear layers: bytes of weights read and operations done, the two joined by the exponent.
  double weight_bytes_per_s_bf16 = 0;
  double weight_bytes_per_s_fp8 = 0;
  double gemm_flops_bf16 = 0;
  double gemm_flops_fp8 = 0;
  double roofline_exponent = 0;  // 1 = one after the other, large = the longer one hides the other
  // Attention: KV bytes gathered by decoding rows, operations of prefill chunks.
  double kv_bytes_per_s = 0;
  double attention_flops = 0;
  // Everything between the matrix products reads and writes activations.
  double activation_bytes_per_s = 0;
  double all_reduce_latency_us = 0;   // each
  double all_reduce_bytes_per_s = 0;  // bus bandwidth, as nccl-tests define it
  double layer_overhead_us = 0;       // launches, gaps and small kernels of one layer
  double step_overhead_us = 0;        // host and sampler, per step
  double row_overhead_us = 0;         // host and sampler, per sampled row

  std::vector<std::string> fitted;  // names of the values above that were fitted, not measured

  friend bool operator==(const DeviceCoefficients&, const DeviceCoefficients&) = default;
};

/// A named number of DeviceCoefficients, for reading, printing and fitting.
struct Coefficient {
  const char* name;
  double DeviceCoefficients::*value;
  double least, most;  // refused outside
};
[[nodiscard]] const std::vector<Coefficient>& coefficient_list();

/// Parses a coefficient file. Refused with `source` and line: broken JSON, another format version,
/// a missing, unknown or repeated name, a value out of range.
Result<DeviceCoefficients> parse_coefficients(std::string_view json, const std::string& source);

/// The text of a coefficient file, parse_coefficients() reads it back unchanged.
[[nodiscard]] std::string to_json(const DeviceCoefficients& coefficients);

/// A device that this program knows by name; kNotFound lists the names.
Result<DeviceCoefficients> builtin_coefficients(const std::string& device);
[[nodiscard]] std::vector<std::string> builtin_devices();

/// From `file` if given, else built in.
Result<DeviceCoefficients> find_coefficients(const std::string& device, const std::string& file);

}  // namespace troupe
