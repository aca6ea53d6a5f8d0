#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>

namespace troupe::cuda {

/// Median device time of one of `n` launches, us: launch(0) ... launch(n - 1) are captured on a
/// stream of their own into a graph, which is replayed once to warm up and then `replays` times.
/// Callers see to it that the launches together read more than the L2 cache holds.
double time_in_graph(const std::function<void(int32_t, cudaStream_t)>& launch, int32_t n,
                     int32_t replays = 5);

}  // namespace troupe::cuda
