#pragma once

#include "gpu/base/result.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace troupe {

/// One request of a workload. Lengths are tokens.
struct WorkloadRequest {
  double arrival_s = 0;
  int32_t prompt_tokens = 0;
  int32_t output_tokens = 0;
  int32_t max_tokens = 0;     // what the client asks for; if above output_tokens, it ends by itself
  int32_t prefix_group = -1;  // requests of a group begin with the same prefix_tokens
  int32_t prefix_tokens = 0;
};

struct Workload {
  std::string name;
  std::vector<WorkloadRequest> requests;  // by arrival
};

struct WorkloadOptions {
  int32_t requests = 0;    // 0 = those of the file, else 1,000
  double rate = 0;         // Poisson arrivals per second; 0 = all at once, or as the file says
  int32_t max_tokens = 0;  // of requests whose length the client does not know; 0 = 4,096
  int32_t max_context = 0;
  uint64_t seed = 1;
};

/// Makes what `spec` names:
///   random:I/O              every prompt has I tokens, every answer O (known to the client)
///   random:I1-I2/O1-O2      uniform lengths, the answer's not known beforehand
///   sharegpt-like           short chats, prompts of about 220 tokens, answers of about 190
///   reasoning-like          heavy-tailed: prompts 381 on average, answers 2,160, p99 6,428
///   anything else           a workload file, see parse_workload()
/// Refused: lengths that are no positive numbers or exceed the context, more than 10^11 tokens.
Result<Workload> make_workload(const std::string& spec, const WorkloadOptions& options);

/// A workload file: JSON lines. The first is {"format":"troupe-workload","version":1}, every other
/// one request: {"prompt_tokens":500,"output_tokens":200} and optionally "arrival_s", "max_tokens",
/// "prefix_group" with "prefix_tokens". Refused with `source` and line.
Result<Workload> parse_workload(std::string_view text, const std::string& source);

}  // namespace troupe
