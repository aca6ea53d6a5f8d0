#pragma once

#include "actors/router/admission.h"
#include "actors/router/prefix_cache.h"
#include "actors/router/request.h"
#include "actors/router/slot_allocator.h"
#include "actors/router/step_time.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <unordered_map>
#include <vector>

namespace troupe {

/// What a complete set of ranks offers.
struct ReplicaInfo {
  uint64_t job = 0;  // names it while it lives
  int32_t n_ranks = 0;
  int32_t n_slots = 0;  // the smallest of its ranks
  int32_t max_rows = 0;
  int32_t max_step_tokens = 0;
};

/// The router's books about one replica: who runs there, which slots are whose, what is in flight.
struct Replica {
  Replica(const ReplicaInfo& replica_info, uint64_t replica_epoch)
      : info(replica_info),
        epoch(replica_epoch),
        slots(replica_info.n_slots),
        admission(replica_info.max_rows),
        reported(static_cast<size_t>(replica_info.n_ranks), 0) {
    for (int32_t row = info.max_rows - 1; row >= 0; --row) free_rows.push_back(row);
  }

  struct Item {
    Request* request = nullptr;
    bool sample = false;
  };
  struct Flight {
    uint64_t step = 0;
    Micros planned_at = 0;
    std::vector<Item> items;
    StepShape shape;
  };
  struct Digest {
    uint64_t value = 0;
    int32_t seen = 0;  // ranks that reported it
  };

  ReplicaInfo info;
  uint64_t epoch = 0;
  SlotAllocator slots;
  PrefixCache cache;
  Admission admission;
  StepTime step_time;
  std::vector<int32_t> free_rows;
  std::vector<int32_t> rows_to_close;  // told to the ranks with the next plan
  std::vector<Request*> running;       // by age, oldest first; the leaving ones too
  /// Those of `running` that compute their prompts (and some that have), by Request::head.
  std::unordered_multimap<uint64_t, Request*> computing;
  std::deque<Flight> in_flight;        // oldest first
  std::map<uint64_t, Digest> digests;  // by step, of steps that not all ranks reported
  std::vector<uint64_t> reported;      // by rank: its last step
  uint64_t next_step = 1;
  int32_t with_tpot = 0;    // of the running requests: have a TPOT target
  Micros answered_at = 0;   // when rank 0 last reported a step
  int64_t claim = 0;        // claimed() while the queue is looked at
  size_t next_refresh = 0;  // of `running`: whose forecast is renewed next

  /// Slots that a plan may take: free ones, and cached ones that nobody holds.
  [[nodiscard]] int32_t available() const { return slots.free() + cache.evictable(); }
  /// Slots that will be in use when the running requests' known tokens are all computed.
  [[nodiscard]] int64_t claimed() const {
    int64_t sum = slots.total() - available();
    for (const Request* r : running) {
      if (r->leaving != Request::Leaving::kNo) continue;
      sum += std::max(0, r->known() - std::max(r->planned(), r->borrowed));
    }
    return sum;
  }
};

}  // namespace troupe
