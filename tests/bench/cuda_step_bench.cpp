// `troupe bench step` for hosts that have CUDA only; see launch/bench_step.h.
#include "launch/bench_step.h"

#include "nccl/communicators.h"

int main(int argc, char** argv) {
  const auto communicator = troupe::make_single_communicator();
  return troupe::bench_step(argc, argv, *communicator, 0);
}
