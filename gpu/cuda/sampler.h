#pragma once

#include "gpu/cuda/step_state.h"

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace troupe::cuda {

/// Chooses the tokens of a step on the device: what gpu/sampler.h promises, with the same noise, so
/// that the same logits give the same tokens as on the CPU. The last kernel of a step: it leaves
/// each row's token where the next step reads it and tells the host.
class Sampler {
 public:
  /// For up to max_rows rows of this rank's `vocab` logits.
  Sampler(int32_t max_rows, int32_t vocab);
  static size_t device_bytes(int32_t max_rows);

  /// logits: [n_rows, vocab] fp32, row i for device.samples[i]; rows that penalise or mask are
  /// modified in place. Writes outcomes [0, n_rows) of the ring entry and ends the step, with
  /// n_rows = 0 too. Capturable.
  void run(float* logits, int32_t n_rows, const StepState::Device& device, cudaStream_t stream);

 private:
  int32_t max_rows_;
  int32_t vocab_;
  bool clusters_ = false;  // the device runs the blocks of a row together
  DeviceBuffer<std::byte> memory_;
};

}  // namespace troupe::cuda
