#pragma once

#include "actors/engine.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <string>

namespace troupe {

/// What the gateway itself counts. Written by sessions, read by /metrics; any thread.
struct HttpCounters {
  std::atomic<int64_t> connections{0};             // open now
  std::atomic<int64_t> requests{0};                // being answered now
  std::atomic<uint64_t> connections_refused{0};    // over max_connections
  std::atomic<uint64_t> disconnects{0};            // clients that left while we generated
  std::atomic<uint64_t> slow_readers{0};           // streams given up because nobody read them
  std::array<std::atomic<uint64_t>, 6> answers{};  // by status / 100

  void count_answer(int32_t status) {
    answers[static_cast<size_t>(status / 100) % answers.size()].fetch_add(1);
  }
};

/// The Prometheus text format: `troupe_*`, and the names that vLLM dashboards and benchmark
/// clients look for.
[[nodiscard]] std::string metrics_text(const EngineStats& stats, const ModelInfo& model,
                                       const HttpCounters& http);

}  // namespace troupe
