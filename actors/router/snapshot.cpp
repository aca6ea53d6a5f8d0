// The router's part of what the dashboard shows.

#include "actors/engine_snapshot.h"
#include "actors/router/router.h"

#include <algorithm>
#include <cstddef>
#include <unordered_map>
#include <utility>
#include <vector>

namespace troupe {
namespace {

using Cell = EngineSnapshot::Cell;

// Who holds each slot, by cells. O(slots + slots held).
std::vector<Cell> map_of(const Replica& replica,
                         const std::unordered_map<const Request*, int32_t>& index,
                         int32_t slots_per_cell) {
  std::vector<int32_t> owner(static_cast<size_t>(replica.slots.total()), Cell::kFree);
  replica.cache.for_each_slot(
      [&owner](int32_t slot) { owner[static_cast<size_t>(slot)] = Cell::kCached; });
  for (const Request* r : replica.running) {
    const int32_t mine = Cell::kFirstRequest + index.at(r);
    for (const int32_t slot : r->slots) {
      int32_t& of = owner[static_cast<size_t>(slot)];
      of = of >= Cell::kShared ? Cell::kShared : mine;
    }
  }
  const auto width = static_cast<size_t>(slots_per_cell);
  std::vector<Cell> cells((owner.size() + width - 1) / width);
  for (size_t slot = 0; slot < owner.size(); ++slot) {
    if (owner[slot] == Cell::kFree) continue;
    Cell& cell = cells[slot / width];
    if (cell.used++ == 0) cell.owner = owner[slot];
  }
  return cells;
}

EngineSnapshot::Running describe(const Request& r, int32_t replica, Micros now) {
  EngineSnapshot::Running out;
  out.id = r.id;
  out.replica = replica;
  out.row = r.row;
  out.prompt = r.n_prompt;
  out.cached = r.cached_tokens;
  out.output = r.produced();
  out.max_output = r.max_tokens;
  out.computed = r.planned();
  out.prefill = r.backlog() > 1;
  out.leaving = r.leaving != Request::Leaving::kNo;
  out.age_us = now - r.submitted;
  return out;
}

}  // namespace

// Why place() finds no replica for it; of several replicas the one that comes closest.
void Router::explain(const Request& r, EngineSnapshot::Waiting& out) {
  using Wait = EngineSnapshot::Wait;  // in the order in which place() asks
  out.why = replicas_.empty() ? Wait::kNoReplica : Wait::kPool;
  for (const auto& [job, replica] : replicas_) {
    if (r.n_prompt + r.max_tokens > replica->info.n_slots) continue;
    Wait why = Wait::kOrder;
    Admission::Tightest tightest;
    if (replica->free_rows.empty()) {
      why = Wait::kRows;
    } else if (!steady(*replica, r)) {
      why = Wait::kTargets;
    } else if (!replica->running.empty()) {
      const auto known = std::span(r.tokens).first(r.tokens.size() - 1);
      const int64_t claimed = replica->claimed();
      Demand demand = demand_of(r);
      demand.own -= std::max(replica->cache.peek(known, r.cache_salt).held, coming(*replica, r));
      tightest = replica->admission.tightest(demand, claimed, replica->info.n_slots, lengths_);
      if (!replica->admission.fits(demand, claimed, replica->info.n_slots, lengths_)) {
        why = Wait::kSlots;
      }
    }
    const bool less_is_missing = why == out.why && why == Wait::kSlots &&
                                 tightest.need - tightest.free < out.need - out.free;
    if (why <= out.why && !less_is_missing) continue;
    out.why = why;
    out.need = tightest.need;
    out.free = tightest.free;
  }
}

EngineSnapshot Router::snapshot(Micros now) {
  EngineSnapshot out;
  out.now = now;
  std::unordered_map<const Request*, int32_t> index;
  for (const auto& [job, replica] : replicas_) {
    const auto number = static_cast<int32_t>(out.replicas.size());
    for (const Request* r : replica->running) {
      index.emplace(r, static_cast<int32_t>(out.running.size()));
      out.running.push_back(describe(*r, number, now));
    }
    EngineSnapshot::Replica& to = out.replicas.emplace_back();
    to.job = job;
    to.epoch = replica->epoch;
    to.slots = replica->slots.total();
    to.used = replica->slots.total() - replica->available();
    to.cached = replica->cache.evictable();
    to.max_rows = replica->info.max_rows;
    to.rows = to.max_rows - static_cast<int32_t>(replica->free_rows.size());
    to.in_flight = static_cast<int32_t>(replica->in_flight.size());
    to.slots_per_cell =
        std::max(1, (to.slots + EngineSnapshot::kMaxCells - 1) / EngineSnapshot::kMaxCells);
    to.cells = map_of(*replica, index, to.slots_per_cell);
  }

  out.waiting_total = waiting_.size();
  std::vector<Request*> first;
  waiting_.first(EngineSnapshot::kMaxWaiting, INT64_MAX, first);
  for (size_t i = 0; i < first.size(); ++i) {
    const Request& r = *first[i];
    EngineSnapshot::Waiting& to = out.waiting.emplace_back();
    to.id = r.id;
    to.prompt = r.n_prompt;
    to.output = r.produced();
    to.max_output = r.max_tokens;
    to.paused = r.started;
    to.age_us = now - r.submitted;
    // Those further behind are not looked at before these have gone.
    if (i < static_cast<size_t>(kLookAhead)) explain(r, to);
  }
  return out;
}

}  // namespace troupe
