#pragma once

namespace troupe::test {

/// Enqueues a kernel that writes where nothing is: every later call of this process fails.
void fault_device();

}  // namespace troupe::test
