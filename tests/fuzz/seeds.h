#pragma once

#include <string>
#include <vector>

namespace troupe::test {

/// Valid inputs that the standalone driver starts its mutations from. Each target defines it.
std::vector<std::string> fuzz_seeds();

}  // namespace troupe::test
