#pragma once

#include <cstdint>

namespace troupe {

/// Bytes this process could still allocate without swapping: what the kernel calls available, or
/// what the control group leaves if that is less. INT64_MAX where neither can be read.
int64_t available_host_memory();

/// A number that is the same for all processes on one running host and differs between hosts.
uint64_t host_id();

}  // namespace troupe
