// `troupe bench step` for hosts that have CUDA only; see launch/bench_step.h.
#include "launch/bench_step.h"

int main(int argc, char** argv) { return troupe::bench_step(argc, argv); }
