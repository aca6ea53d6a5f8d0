#include "actors/router/waiting_queue.h"

#include <algorithm>
#include <limits>

namespace troupe {

WaitingQueue::Tenant& WaitingQueue::tenant(uint64_t id) {
  const auto [it, fresh] = tenants_.try_emplace(id);
  if (fresh) {
    it->second.served = clock_;
    if (const auto w = weights_.find(id); w != weights_.end()) it->second.weight = w->second;
  }
  return it->second;
}

void WaitingQueue::enter(uint64_t id, const Tenant& t) {
  if (!t.waiting.empty()) order_.emplace((*t.waiting.begin())->priority, t.served, id);
}

void WaitingQueue::leave(uint64_t id, const Tenant& t) {
  if (!t.waiting.empty()) order_.erase({(*t.waiting.begin())->priority, t.served, id});
}

void WaitingQueue::push(Request& r) {
  ++size_;
  by_age_.emplace(r.queued_at, r.id, &r);
  if (r.started) {
    resumed_.insert(&r);
    return;
  }
  Tenant& t = tenant(r.tenant);
  leave(r.tenant, t);
  // Time in which it wanted nothing earns a tenant no credit.
  if (t.waiting.empty()) t.served = std::max(t.served, clock_);
  t.waiting.insert(&r);
  enter(r.tenant, t);
}

bool WaitingQueue::remove(Request& r) {
  if (r.started) {
    if (resumed_.erase(&r) == 0) return false;
  } else {
    Tenant& t = tenant(r.tenant);
    if (!t.waiting.contains(&r)) return false;
    leave(r.tenant, t);
    t.waiting.erase(&r);
    enter(r.tenant, t);
  }
  by_age_.erase({r.queued_at, r.id, &r});
  --size_;
  return true;
}

void WaitingQueue::first(int32_t n, int64_t pool, std::vector<Request*>& out) const {
  out.clear();
  const auto full = [&] { return static_cast<int32_t>(out.size()) >= n; };
  const auto take = [&](Request* r) {
    if (int64_t{r->n_prompt} + r->max_tokens <= pool) out.push_back(r);
  };
  // Tenants whose first requests are taken and whose others have a lower priority.
  using Rest = std::pair<Place, std::set<Request*, Earlier>::const_iterator>;
  std::vector<Rest> rest;
  const auto later = [](const Rest& a, const Rest& b) { return b.first < a.first; };
  const auto take_tenant = [&](const Place& place, auto at) {
    const auto& [priority, served, id] = place;
    const auto end = tenants_.at(id).waiting.end();
    for (; at != end && (*at)->priority == priority && !full(); ++at) take(*at);
    if (at == end || full()) return;
    rest.emplace_back(Place{(*at)->priority, served, id}, at);
    std::push_heap(rest.begin(), rest.end(), later);
  };
  auto resumed = resumed_.begin();
  auto next = order_.begin();
  while (!full()) {
    const Place* place = next != order_.end() ? &*next : nullptr;
    const bool again = !rest.empty() && (place == nullptr || rest.front().first < *place);
    if (again) place = &rest.front().first;
    if (resumed != resumed_.end() &&
        (place == nullptr || (*resumed)->priority <= std::get<0>(*place))) {
      take(*resumed++);
    } else if (again) {
      std::pop_heap(rest.begin(), rest.end(), later);
      const Rest chosen = rest.back();
      rest.pop_back();
      take_tenant(chosen.first, chosen.second);
    } else if (place != nullptr) {
      take_tenant(*place, tenants_.at(std::get<2>(*place)).waiting.begin());
      ++next;
    } else {
      return;
    }
  }
}

std::vector<Request*> WaitingQueue::all() const {
  std::vector<Request*> out;
  first(size_, std::numeric_limits<int64_t>::max(), out);
  return out;
}

void WaitingQueue::charge(const Request& r, double tokens) {
  Tenant& t = tenant(r.tenant);
  leave(r.tenant, t);
  clock_ = std::max(clock_, t.served);
  t.served += tokens / t.weight;
  enter(r.tenant, t);
}

void WaitingQueue::settle(const Request& r, double tokens) {
  Tenant& t = tenant(r.tenant);
  leave(r.tenant, t);
  t.served += tokens / t.weight;
  enter(r.tenant, t);
}

void WaitingQueue::arrive(const Request& r) { ++tenant(r.tenant).live; }

void WaitingQueue::depart(const Request& r) {
  const auto it = tenants_.find(r.tenant);
  if (--it->second.live > 0) return;
  if (it->second.served > clock_) clock_ = it->second.served;  // its debt is not forgiven
  tenants_.erase(it);
}

}  // namespace troupe
