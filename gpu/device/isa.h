#pragma once

namespace troupe {

/// Instruction sets the CPU ops are compiled for; each includes what is above it in the list.
enum class Isa {
  kPortable,
  kAvx2,    // AVX2, FMA, F16C
  kAvx512,  // AVX-512 F, BW, DQ, VL
};

/// The best of them that this processor runs.
[[nodiscard]] Isa detect_isa();

}  // namespace troupe
