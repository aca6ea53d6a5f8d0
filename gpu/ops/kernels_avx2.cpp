// Compiled with the flags of its instruction set, see CMakeLists.txt.
#if !defined(__AVX2__)
#error "this file needs the AVX2 flags of gpu/ops/CMakeLists.txt"
#endif

#include "gpu/ops/kernels_attention.h"
#include "gpu/ops/kernels_token.h"
#include "gpu/ops/kernels_vocab.h"

namespace troupe::cpu {

const Kernels kAvx2Kernels = {rms_norm_token, silu_mul_token, rope_angles, rope_head,
                              store_f16,      attend,         all_finite,  largest,
                              sum_exp,        random_words,   lifted};

}  // namespace troupe::cpu
