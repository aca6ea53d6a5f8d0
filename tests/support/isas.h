#pragma once

#include "gpu/device/isa.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace troupe::testing_support {

/// Every instruction set that this machine can run.
inline std::vector<Isa> runnable_isas() {
  std::vector<Isa> all = {Isa::kPortable};
  if (detect_isa() >= Isa::kAvx2) all.push_back(Isa::kAvx2);
  if (detect_isa() >= Isa::kAvx512) all.push_back(Isa::kAvx512);
  return all;
}

inline std::string isa_name(const testing::TestParamInfo<Isa>& info) {
  switch (info.param) {
    case Isa::kPortable: return "Portable";
    case Isa::kAvx2: return "Avx2";
    case Isa::kAvx512: return "Avx512";
  }
  return "Unknown";
}

}  // namespace troupe::testing_support
