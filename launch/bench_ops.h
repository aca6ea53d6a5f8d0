#pragma once

namespace troupe {

/// `bench ops`: every operation of a layer of one GPU rank by itself, on random data that no cache
/// holds, with the bytes it must move, its arithmetic, what they take at the device's limits and
/// how near it comes. A table, or JSON lines ("bench":"op") that `troupe simulate --fit` reads.
/// Returns the exit code.
int bench_ops(int argc, char** argv);

}  // namespace troupe
