#include "actors/router/admission.h"

#include <algorithm>
#include <cstdint>

namespace troupe {
namespace {

// Steps for which a running request's growth is set aside.
constexpr int32_t kGrowthRoom = 32;

}  // namespace

bool Admission::admits(const Replica& replica, const Request& head) const {
  if (replica.free_rows.empty()) return false;
  if (replica.running.empty()) return true;
  int64_t spoken_for = 0;
  for (const Request* r : replica.running) {
    if (r->leaving != Request::Leaving::kNo) continue;
    spoken_for += std::max(0, r->backlog()) + std::clamp(r->left(), 0, kGrowthRoom);
  }
  const int64_t need = head.known() + std::clamp(head.left(), 1, kGrowthRoom);
  return spoken_for + need <= replica.slots.free() + replica.cache.held();
}

}  // namespace troupe
