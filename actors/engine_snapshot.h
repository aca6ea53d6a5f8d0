#pragma once

#include <cstdint>
#include <vector>

namespace troupe {

/// What the dashboard shows: who holds which slot, who runs, who waits and why. Numbers only, no
/// text and no tokens of any request. Times are microseconds, ages count back from `now`.
struct EngineSnapshot {
  /// The KV pool in at most this many cells; a larger pool has several slots to a cell.
  static constexpr int32_t kMaxCells = 16384;
  static constexpr int32_t kMaxWaiting = 100;  // listed; waiting_total counts all

  struct Cell {
    static constexpr int32_t kFree = 0;
    static constexpr int32_t kCached = 1;        // a prefix that nobody uses now
    static constexpr int32_t kShared = 2;        // a prefix that several requests use
    static constexpr int32_t kFirstRequest = 3;  // + index into `running`
    int32_t owner = kFree;                       // of the cell's first slot in use
    int32_t used = 0;                            // slots in use
  };
  struct Step {
    uint64_t step = 0;
    int32_t tokens = 0;
    int32_t rows = 0;
    int32_t compute_us = -1;  // -1 = still in flight
    int32_t idle_us = 0;      // of the device, before it
  };
  struct Rank {
    uint64_t step = 0;    // its last answer, 0 = none seen yet
    int64_t age_us = -1;  // of that answer
  };
  struct Replica {
    uint64_t job = 0, epoch = 0;
    int32_t slots = 0, used = 0, cached = 0;
    int32_t rows = 0, max_rows = 0;
    int32_t in_flight = 0;  // plans
    int32_t slots_per_cell = 1;
    std::vector<Cell> cells;
    std::vector<Step> steps;  // the newest ones, oldest first
    std::vector<Rank> ranks;
  };
  struct Running {
    uint64_t id = 0;
    int32_t replica = 0;  // index
    int32_t row = 0;
    int32_t prompt = 0, cached = 0;  // tokens; cached of the prompt
    int32_t output = 0, max_output = 0;
    int32_t computed = 0;  // tokens that have a slot
    bool prefill = false;
    bool leaving = false;  // paused or ended, waits for its plans in flight
    int64_t age_us = 0;    // since it was submitted
  };
  enum class Wait {
    kNoReplica,  // none is ready
    kPool,       // larger than any pool that is ready
    kRows,       // all rows are taken
    kTargets,    // would make running requests miss their time per token
    kSlots,      // `need` slots, `free` predicted at the tightest moment
    kOrder,      // others are first
  };
  struct Waiting {
    uint64_t id = 0;
    int32_t prompt = 0, output = 0, max_output = 0;  // output: produced before a pause
    bool paused = false;
    int64_t age_us = 0;
    Wait why = Wait::kOrder;
    int64_t need = 0, free = 0;  // kSlots
  };

  int64_t now = 0;  // 0 = nobody has watched before: ask again in a moment
  std::vector<Replica> replicas;
  std::vector<Running> running;
  std::vector<Waiting> waiting;  // in the order in which they should start
  int32_t waiting_total = 0;
};

}  // namespace troupe
