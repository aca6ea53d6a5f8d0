#pragma once

#include "gpu/cuda/linear_shape.h"
#include "gpu/cuda/linear_stream.h"
#include "gpu/cuda/linear_wide.h"

#include <cublasLt.h>

#include <iosfwd>
#include <map>
#include <string>
#include <variant>

/// Inside of Linear: the autotune table.
namespace troupe::cuda {

/// The kernel chosen for a shape, as it is stored.
struct TunedKernel {
  std::variant<StreamVariant, WideVariant, cublasLtMatmulAlgo_t> kernel;
  double us = 0.0;
};
using TuneTable = std::map<GemmShape, TunedKernel>;

/// What a timing depends on besides the shape: GPU, multiprocessors, driver and library.
struct TuneKey {
  std::string gpu;
  int sms = 0;
  int driver = 0;  // 0: any
  int64_t cublaslt = 0;

  static TuneKey of_current_device();
};

/// One JSON object a line. Lines of other keys, unknown or damaged ones are left out; so is a file
/// that cannot be read.
TuneTable read_tune_table(const std::string& path, const TuneKey& key);
TuneTable read_tune_table(std::istream& lines, const TuneKey& key);
/// What this program was built with (gpu/cuda/tune/*.jsonl) for the key's GPU and library, whatever
/// the driver: better than timing at the first start, if perhaps not the best of this host.
TuneTable shipped_tune_table(const TuneKey& key);
/// Replaces the file; one that cannot be written is no error: the next start times again.
void write_tune_table(const std::string& path, const TuneKey& key, const TuneTable& table);

}  // namespace troupe::cuda
