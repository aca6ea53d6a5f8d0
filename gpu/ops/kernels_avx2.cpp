// Compiled with the flags of its instruction set, see CMakeLists.txt.
#include "gpu/ops/kernels_attention.h"
#include "gpu/ops/kernels_token.h"
#include "gpu/ops/kernels_vocab.h"

namespace troupe::cpu {

const Kernels kAvx2Kernels = {rms_norm_token, silu_mul_token, rope_angles, rope_head,
                              store_f16,      attend,         all_finite,  largest,
                              sum_exp,        random_words,   lifted};

}  // namespace troupe::cpu
