#include "gpu/base/check.h"
#include "nccl/communicators.h"
#include "nccl/shared_memory_communicator.h"

#include <new>

namespace troupe {

std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int32_t n) {
  TROUPE_CHECK(n >= 1) << n;
  constexpr std::align_val_t kAlign{64};
  const size_t bytes = SharedMemoryCommunicator::region_bytes(n);
  // Owned by the communicators of all ranks together: whichever goes last frees it.
  std::shared_ptr<std::byte> region(new (kAlign) std::byte[bytes](),
                                    [](std::byte* p) { ::operator delete[](p, kAlign); });
  std::vector<std::unique_ptr<Communicator>> ranks;
  ranks.reserve(static_cast<size_t>(n));
  for (int32_t r = 0; r < n; ++r)
    ranks.push_back(std::make_unique<SharedMemoryCommunicator>(region, r, n));
  return ranks;
}

}  // namespace troupe
