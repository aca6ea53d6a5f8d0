#include "tests/gpu/cuda/fault.h"

namespace troupe::test {
namespace {

__global__ void write_nowhere(int* p) { *p = 1; }

}  // namespace

void fault_device() { write_nowhere<<<1, 1>>>(reinterpret_cast<int*>(16)); }

}  // namespace troupe::test
