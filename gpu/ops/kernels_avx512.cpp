// Compiled with the flags of its instruction set, see CMakeLists.txt.
#if !defined(__AVX512F__)
#error "this file needs the AVX-512 flags of gpu/ops/CMakeLists.txt"
#endif

#include "gpu/ops/kernels_attention.h"
#include "gpu/ops/kernels_token.h"
#include "gpu/ops/kernels_vocab.h"

namespace troupe::cpu {

const Kernels kAvx512Kernels = {rms_norm_token, silu_mul_token, rope_angles, rope_head,
                                store_f16,      attend,         all_finite,  largest,
                                sum_exp,        random_words,   lifted};

}  // namespace troupe::cpu
