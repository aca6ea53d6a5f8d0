// `troupe bench ops` for hosts that have CUDA only; see launch/bench_ops.h.
#include "launch/bench_ops.h"

int main(int argc, char** argv) { return troupe::bench_ops(argc, argv); }
