#pragma once

#include "gpu/base/result.h"
#include "launch/bench_options.h"
#include "launch/bench_statistics.h"
#include "launch/bench_workload.h"

#include <string>
#include <vector>

namespace troupe {

/// The name of the first model of the server, from /v1/models. Blocks. kIo with a sentence that
/// says what to do when there is none.
[[nodiscard]] Result<std::string> first_model(const BenchServeCommand& bench);

/// Sends the load and waits for all answers, on the calling thread. One record a request, in the
/// order of `load`. With a rate, requests leave when they are due; else `concurrency` of them are
/// in flight at any time.
[[nodiscard]] std::vector<RequestRecord> run_load(const BenchServeCommand& bench,
                                                  const std::string& model,
                                                  const std::vector<PlannedRequest>& load);

}  // namespace troupe
