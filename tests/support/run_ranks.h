#pragma once

#include "nccl/communicators.h"

#include <functional>
#include <thread>
#include <vector>

namespace troupe::test {

/// Calls body(communicator) on one thread for each of `n` ranks and waits for all.
inline void run_ranks(int32_t n, const std::function<void(Communicator&)>& body) {
  const auto ranks = make_thread_communicators(n);
  std::vector<std::jthread> threads;
  for (const auto& rank : ranks) threads.emplace_back([&body, &rank] { body(*rank); });
}

}  // namespace troupe::test
