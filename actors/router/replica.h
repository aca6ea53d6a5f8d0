#pragma once

#include "actors/router/prefix_cache.h"
#include "actors/router/request.h"
#include "actors/router/slot_allocator.h"

#include <cstdint>
#include <deque>
#include <map>
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
      : info(replica_info), epoch(replica_epoch), slots(replica_info.n_slots) {
    for (int32_t row = info.max_rows - 1; row >= 0; --row) free_rows.push_back(row);
  }

  struct Item {
    Request* request = nullptr;
    bool sample = false;
  };
  struct Flight {
    uint64_t step = 0;
    std::vector<Item> items;
  };
  struct Digest {
    uint64_t value = 0;
    int32_t seen = 0;  // ranks that reported it
  };

  ReplicaInfo info;
  uint64_t epoch = 0;
  SlotAllocator slots;
  PrefixCache cache;
  std::vector<int32_t> free_rows;
  std::vector<int32_t> rows_to_close;  // told to the ranks with the next plan
  std::vector<Request*> running;       // by age, oldest first; the leaving ones too
  std::deque<Flight> in_flight;        // oldest first, at most two
  std::map<uint64_t, Digest> digests;  // by step, of steps that not all ranks reported
  uint64_t next_step = 1;
};

}  // namespace troupe
