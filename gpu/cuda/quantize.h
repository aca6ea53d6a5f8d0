#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace troupe::cuda {

/// Weights to e4m3 with one scale a row: codes[r, :] = e4m3(w[r, :] / scale[r]), scale[r] =
/// max |w[r, :]| / 448 (1 for a row of zeros). w is [rows, cols] bf16, cols a multiple of 16.
void quantize_weights(uint8_t* codes, float* scale, const __nv_bfloat16* w, int64_t rows,
                      int64_t cols, cudaStream_t stream);

/// out[r, c] = bf16(codes[r, c] * scale[r]).
void expand_weights(__nv_bfloat16* out, const uint8_t* codes, const float* scale, int64_t rows,
                    int64_t cols, cudaStream_t stream);

/// fp32 or f16 values as bf16.
void to_bf16(__nv_bfloat16* out, const float* in, int64_t n, cudaStream_t stream);
void to_bf16_from_f16(__nv_bfloat16* out, const void* in, int64_t n, cudaStream_t stream);

/// Independent normal values of standard deviation `std`: a function of seed and index alone.
void fill_normal(__nv_bfloat16* out, int64_t n, float std, uint64_t seed, cudaStream_t stream);
/// All elements `value`.
void fill(__nv_bfloat16* out, int64_t n, float value, cudaStream_t stream);

}  // namespace troupe::cuda
