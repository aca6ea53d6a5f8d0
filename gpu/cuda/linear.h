#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace troupe::cuda {

enum class WeightFormat : uint8_t { kBf16, kFp8 };  // fp8 is e4m3

/// One linear layer's weights on the device, [rows = output features, cols = input features],
/// row-major. w[r, c] = data[r, c] * channel_scale[r]; a null scale is 1 (bf16).
struct Weight {
  WeightFormat format = WeightFormat::kBf16;
  const void* data = nullptr;
  const float* channel_scale = nullptr;  // [rows]
  int64_t rows = 0;
  int64_t cols = 0;
};

/// What goes into a linear layer, [n_tokens, cols] dense: bf16 for bf16 weights; e4m3 codes with
/// x[t, c] = data[t, c] * token_scale[t] for fp8 weights.
struct Activation {
  const void* data = nullptr;
  const float* token_scale = nullptr;  // [n_tokens]
};

/// What comes out, [n_tokens, rows] dense: out[t, r] = data[t, r] * token_scale[t] *
/// channel_scale[r]; null scales are 1. The scales of an fp8 product are left to its consumer,
/// which reads every value anyway: so the multiply can use the fast kernels that know no scales,
/// and bf16 keeps its precision at any magnitude.
struct Product {
  const __nv_bfloat16* data = nullptr;
  const float* token_scale = nullptr;    // [n_tokens]
  const float* channel_scale = nullptr;  // [rows]
};

/// The matrix multiplies of one rank. One device, one stream at a time; rank worker thread.
class Linear {
 public:
  /// `workspace_bytes` of device memory for split-K and cuBLASLt, allocated here.
  explicit Linear(size_t workspace_bytes = size_t{64} << 20);
  ~Linear();
  Linear(const Linear&) = delete;
  Linear& operator=(const Linear&) = delete;

  /// Reads or writes the autotune table (JSON lines; keyed by GPU, library versions and shape). A
  /// missing, foreign or damaged file is ignored, what it lacks is timed again.
  void load_table(const std::string& path);
  /// Adds what the program was built with for this GPU; what load_table() read goes first.
  void load_shipped_table();
  void save_table(const std::string& path) const;
  /// Chooses the kernel for this shape, cuBLASLt's or an own one (gpu/cuda/linear_stream.h for few
  /// tokens, linear_wide.h for many): the one with which `time(n)` is least, the median of n
  /// durations of work that calls run() or run_f32() for it. Without it they take cuBLASLt's first
  /// guess. Not while capturing.
  void tune(const Weight& w, int32_t n_tokens, bool f32_out,
            const std::function<double(int32_t)>& time);
  /// The same by the multiply alone, over copies of the weights (160 MB or so for the time of the
  /// call).
  void tune_alone(const Weight& w, int32_t n_tokens, bool f32_out, cudaStream_t stream);

  /// out[t, r] = sum_c w[r, c] * x[t, c], accumulated in fp32, written as bf16 [n_tokens, rows].
  /// Deterministic for a given n_tokens. Capturable: no allocation, no synchronisation.
  Product run(__nv_bfloat16* out, const Weight& w, const Activation& x, int32_t n_tokens,
              cudaStream_t stream);
  /// The same with fp32 output (logits); bf16 weights only.
  void run_f32(float* out, const Weight& w, const Activation& x, int32_t n_tokens,
               cudaStream_t stream);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// codes[t, :] = e4m3(x[t, :] / scale[t]), scale[t] = max |x[t, :]| / 448 (1 for a row of zeros).
/// x is [n_tokens, cols] bf16, cols a multiple of 16.
void quantize_rows(uint8_t* codes, float* scale, const __nv_bfloat16* x, int32_t n_tokens,
                   int32_t cols, cudaStream_t stream);

}  // namespace troupe::cuda
