#pragma once

#include "actors/engine.h"
#include "actors/router/request.h"

#include <algorithm>
#include <cstddef>

namespace troupe {

inline void observe(Histogram& h, double value) {
  const auto it = std::lower_bound(h.bounds.begin(), h.bounds.end(), value);
  ++h.counts[static_cast<size_t>(it - h.bounds.begin())];
  h.sum += value;
}

inline double seconds(Micros from, Micros to) { return static_cast<double>(to - from) * 1e-6; }

}  // namespace troupe
