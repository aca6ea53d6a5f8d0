#include "gpu/kv_pool.h"

#include "gpu/base/check.h"

#include <sys/mman.h>

#include <new>

namespace troupe {
namespace {

constexpr int64_t kPage = 4096;

int64_t layer_bytes(int32_t n_slots, int32_t n_kv_heads, int32_t head_dim, DType dtype) {
  const int64_t bytes = n_slots * KvPool::bytes_per_slot(1, n_kv_heads, head_dim, dtype);
  return (bytes + kPage - 1) / kPage * kPage;
}

}  // namespace

int64_t KvPool::bytes_per_slot(int32_t n_layers, int32_t n_kv_heads, int32_t head_dim,
                               DType dtype) {
  return int64_t{2} * n_layers * n_kv_heads * head_dim * block_bytes(dtype);
}

KvPool::KvPool(int32_t n_layers, int32_t n_slots, int32_t n_kv_heads, int32_t head_dim, DType dtype)
    : n_slots_(n_slots) {
  TROUPE_CHECK(dtype == DType::kF16 || dtype == DType::kF32) << to_string(dtype);
  TROUPE_CHECK(n_layers >= 1 && n_slots >= 1 && n_kv_heads >= 1 && head_dim >= 1)
      << n_layers << ' ' << n_slots << ' ' << n_kv_heads << ' ' << head_dim;
  const int64_t per_layer = layer_bytes(n_slots, n_kv_heads, head_dim, dtype);
  bytes_ = per_layer * n_layers;
  mapping_ = mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping_ == MAP_FAILED) throw std::bad_alloc();
  // Huge pages would commit 2 MB for the first token of every layer; slots come from anywhere in
  // the pool, and the rows of a tile are prefetched, page walks included. Neither hint is needed
  // for correctness, so a kernel without them is fine.
  static_cast<void>(madvise(mapping_, static_cast<size_t>(bytes_), MADV_NOHUGEPAGE));
  static_cast<void>(madvise(mapping_, static_cast<size_t>(bytes_), MADV_DONTDUMP));
  for (int32_t i = 0; i < n_layers; ++i)
    layers_.push_back(
        {static_cast<std::byte*>(mapping_) + i * per_layer, dtype, n_kv_heads, head_dim});
}

KvPool::~KvPool() { munmap(mapping_, static_cast<size_t>(bytes_)); }

}  // namespace troupe
