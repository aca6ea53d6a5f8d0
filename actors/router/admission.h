#pragma once

#include "actors/router/replica.h"

namespace troupe {

/// Decides whether the head of the queue may start on a replica now. First come, first served: the
/// head is admitted when its known tokens, the prefill that running requests still owe, and a
/// little room for every running request to grow all fit the free slots. A replica that runs
/// nothing takes any request (it fits the pool, or it would have been refused at the door). The
/// predicted-peak policy belongs here.
class Admission {
 public:
  /// O(running requests).
  [[nodiscard]] bool admits(const Replica& replica, const Request& head) const;
};

}  // namespace troupe
