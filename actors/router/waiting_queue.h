#pragma once

#include "actors/router/request.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

namespace troupe {

/// Requests that wait for a replica, in the order in which they should start.
///
/// The lower `priority` value comes first. Of one priority, those that ran already (paused, or
/// their replica was lost) come before new ones; between tenants the one that has been served least
/// per weight (virtual token counters: Sheng et al., OSDI 2024), so no tenant can crowd out another
/// and nothing idles while anybody waits; within a tenant the one that must start soonest. O(log
/// n).
class WaitingQueue {
 public:
  explicit WaitingQueue(std::map<uint64_t, double> weights) : weights_(std::move(weights)) {}

  void push(Request& r);
  /// False if it was not waiting.
  bool remove(Request& r);

  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] int32_t size() const { return size_; }
  [[nodiscard]] size_t tenants() const { return tenants_.size(); }
  [[nodiscard]] int32_t resumed() const { return static_cast<int32_t>(resumed_.size()); }
  /// The first `n` that need at most `pool` slots in all (another replica may have more).
  void first(int32_t n, int64_t pool, std::vector<Request*>& out) const;
  /// The one that has waited longest, null when nobody waits.
  [[nodiscard]] Request* oldest() const {
    return by_age_.empty() ? nullptr : std::get<Request*>(*by_age_.begin());
  }
  /// All of them, for the rare events.
  [[nodiscard]] std::vector<Request*> all() const;

  /// A new request of its tenant starts: `tokens` is what it will probably cost.
  void charge(const Request& r, double tokens);
  /// It has ended and cost so many more (or fewer).
  void settle(const Request& r, double tokens);
  /// A request has come to be, or has gone for good: a tenant lives while any of its do.
  void arrive(const Request& r);
  void depart(const Request& r);

 private:
  struct Earlier {
    bool operator()(const Request* a, const Request* b) const {
      return std::tie(a->priority, a->start_by, a->submitted, a->id) <
             std::tie(b->priority, b->start_by, b->submitted, b->id);
    }
  };
  struct Tenant {
    double served = 0;  // tokens / weight
    double weight = 1;
    int64_t live = 0;
    std::set<Request*, Earlier> waiting;
  };
  using Place = std::tuple<int32_t, double, uint64_t>;  // priority of its head, served, tenant
  [[nodiscard]] Tenant& tenant(uint64_t id);
  void enter(uint64_t id, const Tenant& t);
  void leave(uint64_t id, const Tenant& t);

  std::map<uint64_t, double> weights_;
  std::map<uint64_t, Tenant> tenants_;
  std::set<Place> order_;  // of tenants that have somebody waiting
  std::set<Request*, Earlier> resumed_;
  std::set<std::tuple<Micros, RequestId, Request*>> by_age_;  // by when the wait began
  double clock_ = 0;  // `served` of the tenant served last: what a newcomer begins with
  int32_t size_ = 0;
};

}  // namespace troupe
