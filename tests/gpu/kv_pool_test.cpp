#include "gpu/kv_pool.h"

#include <gtest/gtest.h>

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <vector>

namespace troupe {
namespace {

int64_t resident_bytes(const void* data, int64_t bytes) {
  const auto page = static_cast<int64_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages(static_cast<size_t>((bytes + page - 1) / page));
  EXPECT_EQ(mincore(const_cast<void*>(data), static_cast<size_t>(bytes), pages.data()), 0);
  int64_t n = 0;
  for (const unsigned char p : pages) n += p & 1;
  return n * page;
}

TEST(KvPool, BytesPerSlot) {
  EXPECT_EQ(KvPool::bytes_per_slot(30, 3, 64, DType::kF16), 30 * 3 * 2 * 64 * 2);
  EXPECT_EQ(KvPool::bytes_per_slot(1, 1, 128, DType::kF32), 2 * 128 * 4);
  EXPECT_EQ(KvPool::bytes_per_slot(80, 64, 128, DType::kF16), int64_t{80} * 64 * 2 * 128 * 2);
}

TEST(KvPool, LayersAreDisjointAndZero) {
  KvPool pool(3, 5, 2, 8, DType::kF32);
  EXPECT_EQ(pool.n_slots(), 5);
  const size_t n = 5 * 2 * 2 * 8;
  EXPECT_GE(pool.bytes(), 3 * 5 * KvPool::bytes_per_slot(1, 2, 8, DType::kF32));
  for (int32_t l = 0; l < 3; ++l) {
    const KvLayer layer = pool.layer(l);
    EXPECT_EQ(layer.n_kv_heads, 2);
    EXPECT_EQ(layer.head_dim, 8);
    EXPECT_EQ(layer.dtype, DType::kF32);
    auto* x = static_cast<float*>(layer.data);
    for (size_t i = 0; i < n; ++i) ASSERT_EQ(x[i], 0.0F) << "layer " << l;
    for (size_t i = 0; i < n; ++i) x[i] = static_cast<float>(l + 1);
  }
  for (int32_t l = 0; l < 3; ++l) {
    const auto* x = static_cast<const float*>(pool.layer(l).data);
    for (size_t i = 0; i < n; ++i) ASSERT_EQ(x[i], static_cast<float>(l + 1));
  }
}

TEST(KvPool, MemoryIsTakenWhenWritten) {
  KvPool pool(4, 1 << 20, 8, 128, DType::kF16);  // 16 GiB of address space
  const KvLayer layer = pool.layer(2);
  const int64_t slot = KvPool::bytes_per_slot(1, 8, 128, DType::kF16);
  const int64_t layer_bytes = slot << 20;
  EXPECT_EQ(resident_bytes(layer.data, layer_bytes), 0);
  std::memset(static_cast<char*>(layer.data) + 777 * slot, 1, static_cast<size_t>(slot));
  EXPECT_GT(resident_bytes(layer.data, layer_bytes), 0);
  EXPECT_LE(resident_bytes(layer.data, layer_bytes), slot + 4096);
}

}  // namespace
}  // namespace troupe
