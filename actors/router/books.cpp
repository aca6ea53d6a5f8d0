// What the router tells about itself, and the check of its books.

#include "actors/router/router.h"
#include "gpu/base/check.h"

#include <algorithm>
#include <cstddef>
#include <unordered_map>
#include <vector>

namespace troupe {

EngineStats Router::stats() const {
  EngineStats s = stats_;
  s.draining = draining_;
  s.replicas_ready = static_cast<int32_t>(replicas_.size());
  s.ready = !replicas_.empty() && !draining_;
  s.paused = waiting_.resumed();
  s.queued = waiting_.size() - s.paused;
  for (const auto& [job, replica] : replicas_) {
    s.slots_total += replica->slots.total();
    s.slots_cached += replica->cache.evictable();
    s.slots_used += replica->slots.total() - replica->available();
    for (const Request* r : replica->running) s.running += r->ended ? 0 : 1;
  }
  return s;
}

void Router::check_invariants() const {
  size_t placed = 0;
  for (const auto& [job, replica] : replicas_) {
    const auto& slots = replica->slots;
    std::vector<bool> named(static_cast<size_t>(slots.total()), false);
    int32_t n_named = 0;
    const auto name = [&](int32_t slot) {
      TROUPE_CHECK(!slots.is_free(slot)) << "slot " << slot << " in use and free";
      TROUPE_CHECK(!named[static_cast<size_t>(slot)]) << "slot " << slot << " used twice";
      named[static_cast<size_t>(slot)] = true;
      ++n_named;
    };
    replica->cache.for_each_slot(name);
    std::vector<PrefixCache::Ref> refs;
    std::vector<bool> rows(static_cast<size_t>(replica->info.max_rows), false);
    for (const Request* r : replica->running) {
      TROUPE_CHECK(requests_.contains(r->id) && r->replica == replica.get()) << r->id;
      TROUPE_CHECK(r->plans_in_flight >= 0 && r->samples_in_flight >= 0) << r->id;
      TROUPE_CHECK(r->plans_in_flight < limits_.plans_in_flight + kMaxAhead) << r->id;
      TROUPE_CHECK(r->leaving == Request::Leaving::kNo || r->plans_in_flight > 0)
          << "request " << r->id << " should have left";
      TROUPE_CHECK(!rows[static_cast<size_t>(r->row)]) << "row " << r->row << " used twice";
      rows[static_cast<size_t>(r->row)] = true;
      for (int32_t i = 0; i < r->in_tree; ++i) {
        TROUPE_CHECK(named[static_cast<size_t>(r->slots[static_cast<size_t>(i)])])
            << "request " << r->id << " uses a slot that the cache has given up";
      }
      for (size_t i = static_cast<size_t>(r->in_tree); i < r->slots.size(); ++i) {
        name(r->slots[i]);
      }
      if (r->prefix != nullptr) refs.push_back(r->prefix);
      ++placed;
    }
    replica->cache.check(refs);
    replica->admission.check();
    TROUPE_CHECK(n_named + replica->slots.free() == replica->slots.total())
        << "slots leaked on job " << job;
    TROUPE_CHECK(static_cast<int32_t>(replica->running.size() + replica->free_rows.size()) ==
                 replica->info.max_rows)
        << "rows leaked on job " << job;
    std::unordered_map<const Request*, int32_t> flights;
    for (const Request* r : replica->running) {
      flights[r] = 0;
      const auto same = [r](const auto& item) { return item.second == r; };
      TROUPE_CHECK(r->backlog() <= 1 || std::ranges::count_if(replica->computing, same) == 1)
          << r->id;
    }
    for (const auto& flight : replica->in_flight) {
      for (const auto& item : flight.items) {
        TROUPE_CHECK(flights.contains(item.request)) << "a plan in flight names a gone request";
        ++flights[item.request];
      }
    }
    for (const auto& [r, n] : flights) {
      TROUPE_CHECK(r->plans_in_flight == n) << "request " << r->id;
    }
  }
  TROUPE_CHECK(placed + static_cast<size_t>(waiting_.size()) == requests_.size())
      << placed << " + " << waiting_.size() << " of " << requests_.size();
}

}  // namespace troupe
