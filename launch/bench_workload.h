#pragma once

#include "launch/bench_options.h"

#include <cstdint>
#include <string>
#include <vector>

namespace troupe {

/// One request of a load, before it is sent.
struct PlannedRequest {
  double arrival = 0;  // seconds after the start; open loop only
  int32_t input_tokens = 0;
  int32_t output_tokens = 0;
  uint64_t seed = 0;  // of the prompt
};

/// The load that `bench` describes: `n` requests that depend on nothing but the seed. In an open
/// loop the gaps between arrivals are exponential with mean 1 / rate, the first at 0.
[[nodiscard]] std::vector<PlannedRequest> plan_load(const BenchServeCommand& bench, int32_t n,
                                                    uint64_t seed);

/// The JSON body of a streamed request.
[[nodiscard]] std::string request_body(const BenchServeCommand& bench, const std::string& model,
                                       const PlannedRequest& request);

}  // namespace troupe
