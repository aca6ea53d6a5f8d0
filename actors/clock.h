#pragma once

#include "actors/router/request.h"

#include <chrono>

namespace troupe {

/// The one clock of the shells around the router; never moves backwards.
inline Micros steady_micros() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace troupe
